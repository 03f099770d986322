# SPDX-License-Identifier: Apache-2.0
"""Image configurations: of every builder, with nulls, and hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import DataLoss
from oakum.images.config import ImageConfig, parse_config

DIFF = "sha256:" + "1" * 64


def parse(**document: Any) -> ImageConfig:
    return parse_config(json.dumps({"rootfs": {"type": "layers", "diff_ids": [DIFF]}, **document}).encode())


def test_all_that_a_container_needs_is_read() -> None:
    config = parse(
        architecture="amd64",
        os="linux",
        created="2026-01-01T00:00:00Z",
        config={
            "Entrypoint": ["/init"],
            "Cmd": ["a", "b"],
            "Env": ["A=1"],
            "User": "www-data:33",
            "WorkingDir": "/srv",
            "Labels": {"k": "v"},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGQUIT",
        },
        history=[{"created_by": "RUN x"}, {"empty_layer": True}],
    )
    assert config.entrypoint == ("/init",)
    assert config.cmd == ("a", "b")
    assert config.env == ("A=1",)
    assert (config.user, config.working_dir, config.stop_signal) == ("www-data:33", "/srv", "SIGQUIT")
    assert config.exposed_ports == ("80/tcp", "53/udp")
    assert config.volumes == ("/data",)
    assert config.labels == {"k": "v"}
    assert [entry.empty_layer for entry in config.history] == [False, True]
    assert config.chain_id == DIFF


def test_nulls_and_missing_fields_are_empty() -> None:
    nothing = parse(config=None, history=None, architecture=None)
    nulls = parse(
        config=dict.fromkeys(("Entrypoint", "Cmd", "Env", "Labels", "ExposedPorts", "Volumes", "User"))
    )
    assert nothing == nulls == parse()
    assert nothing.cmd == ()


def test_a_command_written_as_one_string_is_one_argument() -> None:
    assert parse(config={"Cmd": "run it"}).cmd == ("run it",)


def test_an_image_of_no_layers_has_no_chain() -> None:
    assert parse(rootfs={"diff_ids": None}).chain_id == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"rootfs": 3}',
        b'{"rootfs": {"diff_ids": ["../x"]}}',
        b'{"rootfs": {"diff_ids": []}, "config": {"Env": [1]}}',
        b'{"rootfs": {"diff_ids": []}, "config": {"Env": {"A": "b"}}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_damaged_configurations_are_refused(data: bytes) -> None:
    with pytest.raises(DataLoss, match="read image config"):
        parse_config(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_config(data)
    except DataLoss:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["config", "os", "history", "rootfs", "created"]), json_values))
def test_any_json_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        found = parse_config(json.dumps({"rootfs": {"diff_ids": []}, **document}).encode())
    except DataLoss:
        return
    assert isinstance(found.os, str)
