# SPDX-License-Identifier: Apache-2.0
"""What is decided before a container is made: names, paths, the image's wishes, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    NamespaceOptions,
    SandboxConfig,
    SandboxMetadata,
    SecurityProfile,
)
from oakum.engine import creation, host
from oakum.engine.sandboxes import hostname, name_key
from oakum.engine.store.records import ImageRecord, SandboxRecord
from oakum.engine.usage import pod_cgroup
from oakum.errors import InvalidArgument, NotFound
from tests.unit.engine.test_database import sandbox as row

ID = "a" * 64


def pod(*, cgroup: str = "/oakum/p", **fields: Any) -> SandboxRecord:
    config = SandboxConfig(metadata=SandboxMetadata(name="p"), **fields)
    return msgspec.structs.replace(row(ID), config=config, cgroup_path=cgroup)


def config(name: str = "c", **fields: Any) -> ContainerConfig:
    return ContainerConfig(metadata=ContainerMetadata(name=name), image="i", **fields)


IMAGE = ImageRecord(manifest_digest="m", config_digest="c", cmd=("sh",), user="app", stop_signal="SIGQUIT")


def test_the_log_is_below_the_pods_directory() -> None:
    logs = pod(log_directory="/var/log/pods/p")
    assert creation.log_path(logs, config(log_path="c/0.log"), "/b") == "/var/log/pods/p/c/0.log"
    assert creation.log_path(logs, config(), "/b") == ""
    assert creation.log_path(pod(), config(log_path="c/0.log"), "/b") == ""
    assert creation.log_path(pod(owner="container"), config(), "/b") == "/b/container.log"
    for path in ("../x", "/etc/x", "c/../../x", "."):
        with pytest.raises(InvalidArgument, match="out of"):
            creation.log_path(logs, config(log_path=path), "/b")


@pytest.mark.parametrize(
    ("parent", "wanted", "directory"),
    [
        ("/oakum/k8s.io/p", f"/oakum/k8s.io/p/{ID}", "/oakum/k8s.io/p"),
        ("/kubepods/burstable/pod1/", f"/kubepods/burstable/pod1/{ID}", "/kubepods/burstable/pod1/"),
        ("kubepods-pod1.slice", f"kubepods-pod1.slice:oakum:{ID}", "/kubepods.slice/kubepods-pod1.slice"),
    ],
)
def test_a_containers_cgroup_is_in_its_pods(parent: str, wanted: str, directory: str) -> None:
    assert creation.cgroup_path(pod(cgroup=parent), ID) == wanted
    assert pod_cgroup(parent) == directory


def test_names_are_unique_where_they_should_be() -> None:
    one, two = pod(), msgspec.structs.replace(pod(), id="b" * 64)
    assert creation.name_key(one, config()) != creation.name_key(two, config())
    again = ContainerConfig(metadata=ContainerMetadata(name="c", attempt=1), image="i")
    assert creation.name_key(one, config()) != creation.name_key(one, again)
    mine = pod(owner="container")
    assert creation.name_key(mine, config()) == creation.name_key(
        msgspec.structs.replace(mine, id="b" * 64), config()
    )


def test_no_two_pods_can_look_alike() -> None:
    def key(**fields: Any) -> str:
        return name_key(SandboxConfig(metadata=SandboxMetadata(**{"name": "a", **fields})))

    keys = [
        key(),
        key(namespace="a", name=""),
        key(namespace='a","a'),
        key(uid="a"),
        key(uid='a",0'),
        key(attempt=1),
    ]
    assert len(set(keys)) == len(keys)
    assert name_key(SandboxConfig(metadata=SandboxMetadata(name="a"), owner="container")) == ""


def test_a_pods_host_name() -> None:
    assert hostname(pod(hostname="web").config, ID) == "web"
    assert hostname(pod().config, ID) == ID[:12]
    assert len(hostname(pod(namespaces=NamespaceOptions(uts="node")).config, ID)) > 0


def test_the_image_has_its_wishes_and_the_caller_the_last_word() -> None:
    record = creation.new_record(pod(), config(), IMAGE, "/bundles", {})
    assert (record.user_text, record.stop_signal, record.argv) == ("app", "SIGQUIT", ("sh",))
    wanted = config(user="0", stop_signal="RTMIN+3", command=("x",), user_specified_image="shown")
    record = creation.new_record(pod(), wanted, IMAGE, "/bundles", {})
    assert (record.user_text, record.stop_signal, record.argv) == ("0", "SIGRTMIN+3", ("x",))
    assert record.image_ref == "shown"


def test_a_signal_that_only_the_image_names_wrongly_is_no_reason_to_fail() -> None:
    odd = msgspec.structs.replace(IMAGE, stop_signal="SIGNONE")
    assert creation.new_record(pod(), config(), odd, "/b", {}).stop_signal == "SIGTERM"
    with pytest.raises(InvalidArgument):
        creation.new_record(pod(), config(stop_signal="SIGNONE"), IMAGE, "/b", {})


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (config(""), InvalidArgument),
        (config("bad name"), InvalidArgument),
        (config(privileged=True), InvalidArgument),
        (config(cdi_devices=("x",)), InvalidArgument),
        (config(cdi_devices=("vendor.example/class=none",)), NotFound),
        (config(namespaces=NamespaceOptions(pid="pod")), InvalidArgument),
        (config(init=True), InvalidArgument),
    ],
)
def test_what_cannot_become_a_container_is_refused(wanted: ContainerConfig, error: type[Exception]) -> None:
    with pytest.raises(error):
        creation.check(pod(), wanted)


def test_an_apparmor_profile_that_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_apparmor", lambda: False)
    with pytest.raises(InvalidArgument, match="AppArmor"):
        creation.check(pod(), config(apparmor=SecurityProfile(kind="localhost", localhost_ref="x")))
    creation.check(pod(), config(apparmor=SecurityProfile()))
