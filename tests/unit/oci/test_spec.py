# SPDX-License-Identifier: Apache-2.0
"""config.json from outside: what is accepted, and that whatever is wrong is refused by name and never crashes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.oci.spec import parse, parse_process, parse_resources

GOOD: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "process": {
        "terminal": False,
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "A="],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 18446744073709551615}],
        "oomScoreAdj": -999,
    },
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
        "resources": {"memory": {"limit": -1}, "cpu": {"shares": 2}, "devices": [{"allow": False}]},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "maskedPaths": ["/proc/keys"],
    },
    "futureMember": {"is": ["kept"]},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += _paths(inner, (*path, index))
    return found


def _replaced(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(GOOD)
    where: Any = spec
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = value
    return spec


def test_a_good_spec_passes_unchanged_with_members_nobody_knows() -> None:
    assert parse(copy.deepcopy(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("process", "args"), [], "$.process.args"),
        (("process", "args", 0), 5, "$.process.args[0]"),
        (("process", "args", 0), "a\0b", "$.process.args[0]"),
        (("process", "cwd"), "relative", "$.process.cwd"),
        (("process", "env", 1), "=x", "$.process.env[1]"),
        (("process", "user", "uid"), -1, "$.process.user.uid"),
        (("process", "user", "uid"), 4294967295, "$.process.user.uid"),
        (("process", "user", "uid"), True, "$.process.user.uid"),
        (("process", "oomScoreAdj"), 1001, "$.process.oomScoreAdj"),
        (("linux", "namespaces", 0, "type"), "soup", "$.linux.namespaces[0].type"),
        (("linux", "namespaces", 1, "type"), "pid", "$.linux.namespaces[1]"),
        (("linux", "devices", 0, "path"), "dev/x", "$.linux.devices[0].path"),
        (("linux", "sysctl"), {"..": "1"}, "$.linux.sysctl"),
        (("linux", "sysctl"), {"net/../kernel": "1"}, "$.linux.sysctl"),
        (("linux", "resources", "memory", "limit"), "1g", "$.linux.resources.memory.limit"),
        (("root",), {"readonly": True}, "$.root.path"),
        (("ociVersion",), None, "$.ociVersion"),
        (("mounts", 0, "options"), "ro", "$.mounts[0].options"),
    ],
)
def test_a_bad_member_is_named(path: tuple[Any, ...], value: Any, named: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(_replaced(path, value))
    assert caught.value.subject.startswith(named)


def test_null_stands_for_an_absent_optional_member() -> None:
    assert parse(_replaced(("linux", "sysctl"), None))


@given(JSON)
def test_any_json_is_accepted_or_refused_cleanly(data: Any) -> None:
    for read in (parse, parse_process, parse_resources):
        assert _refusal(read, data).startswith("$")


@given(st.sampled_from(_paths(GOOD)), JSON)
def test_any_member_replaced_by_anything_is_accepted_or_refused_with_a_path_to_it(
    path: tuple[Any, ...], value: Any
) -> None:
    spec = _replaced(path, value)
    assert _refusal(parse, spec).startswith("$")


def _refusal(read: Callable[[object], object], data: object) -> str:
    """Where the parser found fault, "$" when it found none; any other exception ends the test."""
    try:
        read(data)
    except InvalidArgument as refusal:
        return refusal.subject
    return "$"
