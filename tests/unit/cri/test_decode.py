# SPDX-License-Identifier: Apache-2.0
"""Requests that are no requests: what is wrong is said with the field, and protobuf's own verdict always counts."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.decode import decode
from oakum.errors import InvalidArgument
from tests.support.cri import CriClient, failure


def refused(kind: type, data: bytes) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        decode(kind, data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "field", "cause"),
    [
        (b"\x0a\x02\xff\xfe", "pod_sandbox_id", "not UTF-8"),
        (b"\x12\x06\x0a\x04\x0a\x02\xff\xfe", "config.metadata.name", "not UTF-8"),
        (b"\x12\x04\x0a\x02\x0a\x05", "config.metadata.name", "breaks off"),
        (b"\x0a\x7fabc", "pod_sandbox_id", "breaks off"),
        (b"\x0a", "pod_sandbox_id", "breaks off"),
        (b"\xff" * 11, "CreateContainerRequest", "damaged"),
        (b"\x00\x01", "CreateContainerRequest", "damaged"),
        (b"\x0b\x00", "pod_sandbox_id", "damaged"),
    ],
)
def test_what_is_wrong_and_where(data: bytes, field: str, cause: str) -> None:
    error = refused(pb.CreateContainerRequest, data)
    assert error.subject == field
    assert cause in error.cause


def test_a_field_of_another_kind_counts_as_absent() -> None:
    assert decode(pb.CreateContainerRequest, b"\x08\x05") == pb.CreateContainerRequest.FromString(b"\x08\x05")
    assert not decode(pb.CreateContainerRequest, b"\x08\x05").pod_sandbox_id


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_are_refused(data: bytes) -> None:
    try:
        wanted = pb.RunPodSandboxRequest.FromString(data)
    except DecodeError:
        assert refused(pb.RunPodSandboxRequest, data).subject
    else:
        assert decode(pb.RunPodSandboxRequest, data).SerializeToString() == wanted.SerializeToString()


def test_a_client_is_told_so(cri: CriClient) -> None:
    call = cri.channel.unary_unary("/runtime.v1.RuntimeService/StopContainer", None, None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - stubs
    code, message = failure(lambda: call(b"\x0a\x01\xff", timeout=10))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "container_id: not UTF-8" in message
