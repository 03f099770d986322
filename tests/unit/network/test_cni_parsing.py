# SPDX-License-Identifier: Apache-2.0
"""Configurations and answers of plugins come from outside: whatever they are, they are read or refused, never worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import DataLoss, InvalidArgument, OakumError
from oakum.network.cni.config import VERSIONS, NetworkList, Plugin, parse_list, to_json, with_plugins
from oakum.network.cni.records import Record, decode, encode
from oakum.network.cni.requests import Target, environment, standard_input
from oakum.network.cni.results import Call, parse_fault, parse_result, parse_versions, reports_error, summary

CALL = Call("ADD", "bridge", "podnet")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_Result = TypeVar("_Result")
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
TYPES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=9
).filter(lambda name: name not in (".", "..") and name.isprintable())
RESERVED = (
    "type",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "name",
    "cniVersion",
    "cniVersions",
    "ipam",
)


def outcome(action: Callable[[], _Result]) -> _Result | OakumError:
    try:
        return action()
    except OakumError as error:
        return error


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the fields, each right or wrong, and others."""
    known = st.fixed_dictionaries({}, optional={name: value | VALUES for name, value in fields.items()})
    return st.builds(lambda a, b: {**a, **b}, st.dictionaries(st.text(max_size=6), VALUES, max_size=2), known)


PLUGINS = objects(
    type=TYPES,
    capabilities=st.dictionaries(NAMES, st.booleans() | VALUES, max_size=3),
    ipam=objects(type=TYPES),
)
LISTS = objects(
    name=NAMES,
    cniVersion=st.sampled_from(VERSIONS),
    cniVersions=st.lists(st.sampled_from(VERSIONS) | st.text(max_size=5), max_size=3),
    plugins=st.lists(PLUGINS, max_size=3),
    disableCheck=st.booleans(),
    disableGC=st.sampled_from(["true", "false"]),
    loadOnlyInlinedPlugins=st.booleans(),
)
RESULTS = objects(
    cniVersion=st.sampled_from(VERSIONS),
    interfaces=st.lists(objects(name=NAMES, mac=st.text(), sandbox=st.text(), mtu=st.integers()), max_size=3),
    ips=st.lists(
        objects(
            address=st.sampled_from(["10.0.0.2/24", "fd00::2/64", "10.0.0.2", "x"]),
            gateway=st.sampled_from(["10.0.0.1", "fd00::1", ""]),
            interface=st.integers(-2, 3),
        ),
        max_size=3,
    ),
    dns=objects(nameservers=st.lists(st.text(), max_size=2), search=st.lists(st.text()), domain=st.text()),
)
GOOD_PLUGINS = st.builds(
    lambda kind, config, capabilities: Plugin(kind, {**config, "type": kind}, frozenset(capabilities)),
    TYPES,
    st.dictionaries(st.text(max_size=6).filter(lambda key: key not in RESERVED), VALUES, max_size=3),
    st.lists(NAMES, max_size=3),
)
GOOD_LISTS = st.builds(
    lambda name, version, plugins, check, collect: NetworkList(
        name, (version,), tuple(plugins), disable_check=check, disable_gc=collect, source="s"
    ),
    NAMES,
    st.sampled_from(VERSIONS),
    st.lists(GOOD_PLUGINS, min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)


@given(st.binary(max_size=60) | (VALUES | LISTS).map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_network_or_refused(data: bytes) -> None:
    found = outcome(lambda: with_plugins(parse_list(data, "a file"), []))
    if isinstance(found, OakumError):
        assert isinstance(found, InvalidArgument)
        assert found.subject == "a file"
        return
    assert found.version in VERSIONS
    assert all("/" not in plugin.type and plugin.type not in ("", ".", "..") for plugin in found.plugins)


@given(GOOD_LISTS)
def test_a_list_comes_back_from_its_json(network: NetworkList) -> None:
    assert parse_list(json.dumps(to_json(network)).encode(), "s") == network


@given(
    GOOD_LISTS,
    st.sampled_from(["adding", "added", "deleting"]),
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.none() | st.dictionaries(NAMES, VALUES, max_size=3),
    st.text(max_size=8),
)
def test_a_record_comes_back_from_its_file(
    network: NetworkList, phase: Any, config: dict[str, Any], result: dict[str, Any] | None, words: str
) -> None:
    target = Target("1" * 64, "/run/net", "eth0", words, config)
    record = Record("1" * 64, network, target, phase, ("/opt/cni/bin",), words, result, words)
    assert decode(encode(record), "s") == record


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_damaged_record_is_said_to_be_one(data: bytes) -> None:
    with pytest.raises(DataLoss):
        decode(data, "a file")


@given(GOOD_LISTS, st.dictionaries(NAMES, VALUES, max_size=4), st.none() | st.dictionaries(NAMES, VALUES))
def test_a_plugin_gets_its_own_configuration_and_only_what_it_is_capable_of(
    network: NetworkList, runtime: dict[str, Any], previous: dict[str, Any] | None
) -> None:
    for plugin in network.plugins:
        told = json.loads(standard_input(network, plugin, runtime_config=runtime, previous=previous))
        assert told["name"] == network.name
        assert told["cniVersion"] == network.version
        assert told.get("prevResult") == previous
        assert "capabilities" not in told
        assert set(told.get("runtimeConfig", {})) <= plugin.capabilities & set(runtime)
        for key, value in plugin.config.items():
            assert told[key] == value


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=4), max_size=4))
def test_nothing_of_our_own_environment_looks_like_a_parameter(inherited: dict[str, str]) -> None:
    inherited = {**inherited, "CNI_NETNS": "another's", "CNI_ARGS": "another's", "PATH": "/bin"}
    told = environment("GC", ("/a", "/b"), None, inherited)
    assert {key: value for key, value in told.items() if key.startswith("CNI_")} == {
        "CNI_COMMAND": "GC",
        "CNI_PATH": "/a:/b",
    }
    assert told["PATH"] == "/bin"


@given(st.binary(max_size=60) | (VALUES | RESULTS).map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_a_result_or_an_error_that_names_the_plugin(answer: bytes) -> None:
    result = outcome(lambda: parse_result(answer, CALL, "1.0.0"))
    if isinstance(result, OakumError):
        assert "plugin bridge of network podnet" in str(result)
    else:
        assert {**result, **json.loads(answer)} == result
        for _, addresses in [summary(result, CALL).of("eth0")]:
            families = [each.interface.version for each in addresses]
            assert families == sorted(families)


@given(
    st.integers(-64, 255),
    st.binary(max_size=60)
    | objects(code=st.integers(0, 200), msg=st.text(), details=st.text()).map(
        lambda v: json.dumps(v).encode()
    ),
    st.binary(max_size=60),
)
def test_any_failure_is_one_printable_line(status: int, answer: bytes, stderr: bytes) -> None:
    error = parse_fault(status, answer, stderr, CALL).to_error()
    assert str(error).isprintable()
    assert str(error).startswith("CNI ADD plugin bridge of network podnet")
    assert isinstance(reports_error(answer), bool)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_answer_to_version_is_a_list_of_texts_or_refused(answer: bytes) -> None:
    found = outcome(lambda: parse_versions(answer, CALL))
    if isinstance(found, OakumError):
        assert "plugin bridge" in str(found)
    else:
        assert all(isinstance(each, str) for each in found)


def test_the_containers_interface_is_told_from_the_hosts() -> None:
    result = {
        "interfaces": [
            {"name": "cni0"},
            {"name": "veth1"},
            {"name": "eth0", "sandbox": "/run/net", "mac": "02:00:00:00:00:01", "mtu": 1400},
            {"name": "ifb1"},
        ],
        "ips": [
            {"address": "fd00::2/64", "interface": 2},
            {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 2},
            {"address": "10.0.0.1/24", "interface": 0},
            {"address": "10.9.0.2/24"},
        ],
    }
    found = summary(result, CALL)
    interface, addresses = found.of("eth0")
    assert interface is not None
    assert interface.mtu == 1400
    assert [str(each.interface) for each in addresses] == ["10.0.0.2/24", "10.9.0.2/24", "fd00::2/64"]
    assert found.host_interface("eth0") == "veth1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "../sh"}]}',
            "'../sh' is no name for a plugin",
        ),
        ('{"cniVersion": "1.0.0", "name": "../a", "plugins": []}', "'../a' is no name for a network"),
        ('{"cniVersion": "0.2.0", "name": "a", "type": "x"}', "written for CNI 0.2.0"),
        ('{"name": "a", "type": "x"}', "written for CNI of no version"),
        ('{"cniVersion": "1.0.0", "name": "a", "plugins": []}', "network a has no plugins"),
        ('{"cniVersion": "1.0.0", "plugins": [{"type": "x"}]}', 'the file has no "name"'),
        ('{"cniVersion": "1.0.0", "name": "a", "plugins": [{}]}', 'plugins[0] has no "type"'),
        ("[" * 100_000, "no JSON"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "longer than"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        with_plugins(parse_list(text.encode(), "10-a.conflist"), [])
    assert said in str(caught.value)
    assert "10-a.conflist" in str(caught.value)
