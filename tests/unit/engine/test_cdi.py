# SPDX-License-Identifier: Apache-2.0
"""Devices by name: what vendors' files make of a container, and what no file may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.backend.config import ContainerConfig, ContainerMetadata, Mount
from oakum.engine import cdi
from oakum.errors import InvalidArgument, NotFound, Unimplemented

SPEC = {
    "cdiVersion": "0.8.0",
    "kind": "vendor.example/gpu",
    "containerEdits": {"env": ["ALL=1"]},
    "devices": [
        {
            "name": "0",
            "containerEdits": {
                "env": ["GPU=0"],
                "deviceNodes": [
                    {"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw", "fileMode": 384}
                ],
                "mounts": [
                    {
                        "hostPath": "/usr/lib/gpu",
                        "containerPath": "/lib/gpu",
                        "options": ["ro", "nosuid", "bind"],
                    }
                ],
                "additionalGids": [0, 44],
            },
        },
        {"name": "1", "containerEdits": {"env": ["GPU=1"]}},
    ],
}


def config(**fields: object) -> ContainerConfig:
    return ContainerConfig(metadata=ContainerMetadata(name="c"), image="i", **fields)  # type: ignore[arg-type]


@pytest.fixture
def directories(tmp_path: Path) -> tuple[str, str]:
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc/gpu.json").write_text(json.dumps(SPEC))
    return str(tmp_path / "etc"), str(tmp_path / "run")


def test_a_device_brings_its_node_mounts_environment_and_groups(directories: tuple[str, str]) -> None:
    edits = cdi.edits_of(("vendor.example/gpu=0", "vendor.example/gpu=1"), directories)
    made = cdi.injected(config(envs=(("MINE", "x"),), supplemental_groups=(44,)), edits)
    assert made.envs == (("MINE", "x"), ("ALL", "1"), ("GPU", "0"), ("GPU", "1"))
    assert made.mounts == (
        Mount(container_path="/lib/gpu", host_path="/usr/lib/gpu", readonly=True, options=("nosuid",)),
    )
    assert made.supplemental_groups == (44,)
    (node,) = cdi.nodes(edits)
    assert (node.path, node.type, node.major, node.minor) == ("/dev/gpu0", "c", 1, 3)
    assert (node.mode, node.permissions) == (0o600, "rw")


def test_names_come_by_field_and_by_annotation() -> None:
    asked = config(
        cdi_devices=("a.b/c=1",), annotations={"cdi.k8s.io/x": "a.b/c=2, a.b/c=1", "other": "a.b/c=3"}
    )
    assert cdi.requested(asked) == ("a.b/c=1", "a.b/c=2")


def test_a_later_directory_wins_and_two_files_of_one_clash(directories: tuple[str, str]) -> None:
    other = {**SPEC, "devices": [{"name": "0", "containerEdits": {"env": ["GPU=new"]}}]}
    Path(directories[1], "gpu.yaml").write_text(json.dumps(other))  # JSON is YAML, too
    last = cdi.edits_of(("vendor.example/gpu=0",), directories)[-1]
    assert last.env == ("GPU=new",)
    Path(directories[1], "more.json").write_text(json.dumps(other))
    with pytest.raises(InvalidArgument, match="more than one file"):
        cdi.edits_of(("vendor.example/gpu=0",), directories)


@pytest.mark.parametrize(
    "name", ["", "gpu", "vendor.example/gpu", "vendor.example/gpu=", "../x/y=z", "a/b=c\n"]
)
def test_what_is_no_name_is_refused(name: str, directories: tuple[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="vendor"):
        cdi.edits_of((name,), directories)


def test_an_unknown_device_is_not_found_and_a_broken_file_is_told_then(directories: tuple[str, str]) -> None:
    with pytest.raises(NotFound, match="no specification has it"):
        cdi.edits_of(("vendor.example/gpu=9",), directories)
    Path(directories[1], "broken.json").write_text("{")
    assert cdi.edits_of(("vendor.example/gpu=1",), directories)[-1].env == ("GPU=1",)
    with pytest.raises(InvalidArgument, match=r"broken\.json"):
        cdi.edits_of(("vendor.example/gpu=9",), directories)


def test_what_cannot_be_carried_out_is_refused_and_not_dropped(directories: tuple[str, str]) -> None:
    hooked = {**SPEC, "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}}
    Path(directories[0], "gpu.json").write_text(json.dumps(hooked))
    with pytest.raises(Unimplemented, match="hooks"):
        cdi.edits_of(("vendor.example/gpu=1",), directories)


BOMB = "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\ncdiVersion: '0.8'\nkind: a.b/c\n"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"[]", "x.json"),
        (b'{"cdiVersion": "1", "kind": "a.b/c", "surprise": 1}', "x.json"),
        (b'{"kind": "a.b/c"}', "x.json"),
        (b"x" * ((1 << 20) + 1), "x.json"),
        (BOMB.encode(), "x.yaml"),
        (b"!!python/object/apply:os.system [true]", "x.yaml"),
        (b"[" * 100_000, "x.json"),
        (b"\xff\xfe", "x.yaml"),
    ],
)
def test_hostile_files_are_refused_with_their_name(data: bytes, name: str) -> None:
    with pytest.raises(InvalidArgument, match=name.replace(".", r"\.")):
        cdi.parse(data, name)


@given(st.binary(max_size=300), st.sampled_from(["x.json", "x.yaml"]))
def test_no_file_is_too_odd(data: bytes, name: str) -> None:
    try:
        assert cdi.parse(data, name).cdi_version is not None
    except InvalidArgument:
        pass  # the one error there may be


@pytest.mark.parametrize(
    "node",
    [
        {"path": "dev/x", "hostPath": "/dev/null"},
        {"path": "/dev/x", "hostPath": "/etc/passwd"},
        {"path": "/dev/x", "hostPath": "/dev/null", "permissions": "rwx"},
        {"path": "/dev/x", "hostPath": "/dev/null", "type": "b"},
        {"path": "/dev/x", "type": "p", "major": 1, "minor": 3, "fileMode": 0},
    ],
)
def test_what_is_no_device_is_refused(node: dict[str, object], directories: tuple[str, str]) -> None:
    spec = {**SPEC, "devices": [{"name": "0", "containerEdits": {"deviceNodes": [node]}}]}
    Path(directories[0], "gpu.json").write_text(json.dumps(spec))
    with pytest.raises(InvalidArgument):
        cdi.nodes(cdi.edits_of(("vendor.example/gpu=0",), directories))
