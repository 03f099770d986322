# SPDX-License-Identifier: Apache-2.0
"""Errors say what failed, on what, and why; survive a socket; and become codes at the edges."""

from __future__ import annotations

import errno
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum import errors


def all_classes(cls: type[errors.OakumError] = errors.OakumError) -> list[type[errors.OakumError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in all_classes(sub))]


def test_a_message_reads_as_operation_object_cause_and_hint() -> None:
    error = errors.NotFound("stop container", "'web'", "no such container", hint="see oakum ps")
    assert str(error) == "stop container 'web': no such container (see oakum ps)"
    assert error.brief == "stop container 'web': no such container"
    assert str(errors.Internal("plan mounts")) == "plan mounts"


@pytest.mark.parametrize("cls", all_classes())
@given(words=st.tuples(st.text(), st.text(), st.text(), st.text()), number=st.integers(0, 133))
def test_every_error_survives_a_socket(
    cls: type[errors.OakumError], words: tuple[str, str, str, str], number: int
) -> None:
    operation, subject, cause, hint = words
    if issubclass(cls, errors.SystemFailure):
        error: errors.OakumError = cls(operation, subject, cause, hint=hint, errno=number)
    else:
        error = cls(operation, subject, cause, hint=hint)
    back = errors.from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(back) is cls
    assert back.to_dict() == error.to_dict()
    assert str(back) == str(error)


def test_codes_are_unique_and_known_at_every_edge() -> None:
    classes = all_classes()
    assert len({cls.code for cls in classes}) == len(classes)
    for cls in classes:
        error = cls("x")
        assert 1 <= errors.grpc_status_number(error) <= 16
        assert 400 <= errors.http_status(error) <= 599
        assert 1 <= errors.exit_code(error) <= 255


@pytest.mark.parametrize(
    ("cls", "grpc_number"),
    [
        (errors.InvalidArgument, 3),
        (errors.DeadlineExceeded, 4),
        (errors.NotFound, 5),
        (errors.ImageNotFound, 5),
        (errors.AlreadyExists, 6),
        (errors.FailedPrecondition, 9),
        (errors.Unimplemented, 12),
        (errors.Unavailable, 14),
    ],
)
def test_the_kubelet_gets_the_code_it_acts_on(cls: type[errors.OakumError], grpc_number: int) -> None:
    assert errors.grpc_status_number(cls("x")) == grpc_number


def test_a_damaged_description_still_becomes_an_error() -> None:
    assert type(errors.from_dict({"code": "FROM_THE_FUTURE", "operation": "x"})) is errors.OakumError
    assert str(errors.from_dict({})) == ""


def test_the_kernels_error_keeps_its_number_and_gets_a_name() -> None:
    caught = OSError(errno.ENOSPC, "whatever", "/var/lib/oakum/content")
    error = errors.SystemFailure.from_os_error(caught, "write")
    assert str(error) == "write /var/lib/oakum/content: No space left on device (ENOSPC)"
    assert error.errno == errno.ENOSPC
    assert str(errors.SystemFailure.from_os_error(OSError("odd"), "read", "/x")) == "read /x: odd"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOENT, 127), (errno.ENOTDIR, 127), (errno.EACCES, 126), (errno.ENOEXEC, 126)]
)
def test_a_command_that_cannot_run_exits_as_in_a_shell(number: int, code: int) -> None:
    assert errors.exit_code(errors.CommandNotRunnable("execve", "'/no'", errno=number)) == code
