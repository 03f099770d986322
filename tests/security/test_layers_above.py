# SPDX-License-Identifier: Apache-2.0
"""Attacks on what runs above a runtime: images, annotations and requests that say more than whoever wrote them may.

A control does with the same input what the broken programs did: it has to succeed, or the test would prove nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oakum.engine import cdi
from oakum.errors import InvalidArgument, OakumError
from oakum.oci.users import parse_passwd
from tests.kernel.oci_cli_box import Runtime
from tests.support.engines import Lab
from tests.support.images import Blob, BuiltImage, build_image
from tests.support.registry import busybox_layer

HOST_CORE = Path("/proc/sys/kernel/core_pattern")


def hostile_image(
    lab: Lab, name: str, config: dict[str, Any], annotations: Mapping[str, str] | None = None
) -> str:
    """Push an image with this configuration and manifest annotations, and pull it; its name."""
    image = build_image([busybox_layer()], {"Cmd": ["sh"], **config}, media="oci")
    if annotations:
        manifest = {**json.loads(image.manifest.data), "annotations": dict(annotations)}
        blob = Blob(image.manifest.media_type, json.dumps(manifest).encode())
        image = BuiltImage(blob, image.config, image.layers)
    lab.registry.push_built(f"library/{name}", ("latest",), image)
    lab.cri.pull_image(lab.image(name))
    return lab.image(name)


def bundle_spec(lab: Lab, container_id: str) -> dict[str, Any]:
    """The config.json that a container of the engine runs by."""
    (path,) = Path(lab.engine.root).glob(f"**/{container_id}/config.json")
    return json.loads(path.read_text())


# -- CVE-2024-40635: a user's number that wraps around to root -----------------------------------------------------


def test_cve_2024_40635_no_user_of_an_image_wraps_around_to_root(lab: Lab) -> None:
    for user in ("4294967296", "4294967296:4294967296", "18446744073709551616", "-1", "4294967295"):
        image = hostile_image(lab, "wrapping", {"User": user})
        with lab.pod("wrapping") as pod, pytest.raises(OakumError, match=user.partition(":")[0]):
            lab.started(pod, "c", "id -u; sleep 600", image=image)


def test_cve_2024_40635_nor_one_of_a_request(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    for text in ("4294967296", "4294967295", "-1", "0x0", "33abc", "\u0661", "1:4294967296"):
        done = runtime("exec", "--user", text, container, "id", "-u", check=False)
        assert (done.returncode, done.stdout) == (255, ""), text
    for member in ("uid", "gid"):
        runtime.write("id", "-u", process={"user": {member: 1 << 32}})
        done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert (done.returncode, f"$.process.user.{member}" in done.stderr) == (1, True)


def test_cve_2024_40635_control() -> None:
    # What becomes of such a number on its way through 32 bits: this process asks for user 2^32, and is user 0.
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None)
        failed = libc.setresuid(ctypes.c_uint(1 << 32), ctypes.c_uint(1 << 32), ctypes.c_uint(1 << 32))
        os._exit(0 if not failed and os.getresuid() == (0, 0, 0) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_cve_2024_40635_the_greatest_user_there_is_may_be_used(lab: Lab) -> None:
    for user in ("2147483648", "4294967294"):
        assert lab.output("id -u", image=hostile_image(lab, "greatest", {"User": user})) == f"{user}\n"


# -- CVE-2026-53488: an image's label becomes a program that writes the log, run as root ---------------------------


def logger_labels(program: Path) -> dict[str, str]:
    """The labels by which other programs choose who takes a container's output."""
    uri = f"binary://{program}?attack=1"
    names = ("nerdctl/log-uri", "containerd.io/restart.loguri", "containerd.io/restart.logpath", "log-uri")
    return dict.fromkeys(names, uri) | {"containerd.io/restart.status": "running"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that an attacker wants run on the host."""
    made = tmp_path / "attack"
    made.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    made.chmod(0o755)
    return made


def test_cve_2026_53488_labels_of_an_image_start_nothing(lab: Lab, program: Path) -> None:
    labels = logger_labels(program)
    image = hostile_image(lab, "labelled", {"Labels": labels})
    with lab.pod("labelled") as pod:
        container = lab.started(pod, "c", "echo said", image=image)
        lab.cri.wait(container, timeout_s=60)
        status = lab.cri.container_status(container)
        assert status.config.labels == {}
        assert [line.data for line in lab.cri.logs(container)] == [b"said"]
        for path in (f"binary://{program}", f"binary:/{program}?x", "file:///etc/crontab"):
            # as the request's own log path it is the name of a file below the pod's directory, or refused
            try:
                other = lab.started(pod, "d", "echo said", log_path=path)
            except InvalidArgument:
                continue
            lab.cri.wait(other, timeout_s=60)
            assert lab.cri.container_status(other).log_path.startswith(f"{lab.logs}/labelled/")
            lab.cri.remove_container(other)
    assert not (program.parent / "ran").exists()


def test_cve_2026_53488_control(lab: Lab, program: Path) -> None:
    image = hostile_image(lab, "labelled", {"Labels": logger_labels(program)})
    labels = {
        **lab.cri.image_config(image).labels,
        "own": "label",
    }  # merged, as the engines did that were broken
    uri = labels["nerdctl/log-uri"]
    assert uri.startswith("binary://")
    subprocess.run([uri.removeprefix("binary://").partition("?")[0]], check=True)
    assert (program.parent / "ran").exists()


def test_cve_2026_53488_labels_are_still_shown_as_what_they_are(lab: Lab, program: Path) -> None:
    image = hostile_image(lab, "labelled", {"Labels": logger_labels(program)})
    assert lab.cri.image_config(image).labels == logger_labels(program)
    with lab.pod("own-labels") as pod:
        container = lab.started(pod, labels={"app": "web"})
        assert lab.cri.container_status(container).config.labels == {"app": "web"}


# -- CVE-2026-53492: annotations of a checkpoint bring devices in --------------------------------------------------

DEVICE = "vendor.example/attack=all"
CHECKPOINT = {
    "org.criu.checkpoint.container.name": "c",
    "org.criu.checkpoint.engine.name": "cri-o",
    "io.kubernetes.cri-o.annotations.checkpoint.name": "c",
    "cdi.k8s.io/attack": DEVICE,
}


@pytest.fixture
def gadget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that this host has; containers with it have GADGET in their environment."""
    edits = {"env": ["GADGET=there"]}
    document = {
        "cdiVersion": "0.8.0",
        "kind": "vendor.example/attack",
        "devices": [{"name": "all", "containerEdits": edits}],
    }
    (tmp_path / "attack.json").write_text(json.dumps(document))
    monkeypatch.setattr(cdi, "DIRECTORIES", (str(tmp_path),))
    return DEVICE


@pytest.mark.usefixtures("gadget")
def test_cve_2026_53492_annotations_of_an_image_bring_no_device(lab: Lab) -> None:
    image = hostile_image(lab, "checkpoint", {"Labels": CHECKPOINT}, CHECKPOINT)
    assert lab.output("echo $GADGET", image=image) == "\n"
    with lab.pod("checkpoint") as pod:
        container = lab.started(pod, image=image)
        assert lab.cri.container_status(container).config.annotations == {}
        assert "GADGET" not in json.dumps(bundle_spec(lab, container))


def test_cve_2026_53492_control(lab: Lab, gadget: str) -> None:
    image = hostile_image(lab, "checkpoint", {"Labels": CHECKPOINT}, CHECKPOINT)
    # restored with what the checkpoint says about itself, as the engines did that were broken
    restored = lab.cri.image_config(image).labels
    assert restored["cdi.k8s.io/attack"] == gadget
    assert lab.output("echo $GADGET", image=image, annotations=restored) == "there\n"


def test_cve_2026_53492_the_kubelets_own_annotation_brings_its_device(lab: Lab, gadget: str) -> None:
    assert lab.output("echo $GADGET", annotations={"cdi.k8s.io/own": gadget}) == "there\n"


# -- CVE-2026-50195: an image from outside takes the name of one that is trusted -----------------------------------


def names(lab: Lab) -> dict[str, str]:
    return {tag: image.id for image in lab.cri.list_images() for tag in image.repo_tags}


def naming(trusted: str) -> dict[str, str]:
    """The annotations by which archives and checkpoints say what they are called."""
    return {
        "io.containerd.image.name": trusted,
        "org.opencontainers.image.ref.name": trusted,
        "org.criu.checkpoint.rootfsImageName": trusted,
        "org.criu.checkpoint.container.name": "c",
    }


def test_cve_2026_50195_a_pulled_image_has_the_name_it_was_pulled_by_only(lab: Lab) -> None:
    trusted = lab.image("busybox")
    before = names(lab)
    image = hostile_image(lab, "poison", {"Labels": naming(trusted)}, naming(trusted))
    with lab.pod("poison") as pod:
        lab.started(pod, image=image)
        after = names(lab)
        assert after.pop(image) not in before.values()
        assert {tag: image_id for tag, image_id in after.items() if tag in before} == before
        assert set(after) - set(before) == set()
        for reference in ("/var/lib/checkpoint.tar", "file:///checkpoint.tar", "checkpoint://c"):
            with pytest.raises(OakumError):
                lab.cri.create_container(pod, lab.container("restored", image=reference))
    lab.cri.remove_image(image)


def test_cve_2026_50195_control(lab: Lab) -> None:
    trusted = lab.image("busybox")
    tags = names(lab)
    image = hostile_image(lab, "poison", {"Labels": naming(trusted)}, naming(trusted))
    image_id = names(lab)[image]
    # tagged by what it says it is called, as the engines did that were broken
    tags[lab.cri.image_config(image).labels["org.criu.checkpoint.rootfsImageName"]] = image_id
    assert tags[trusted] != names(lab)[trusted]
    lab.cri.remove_image(image)


def test_cve_2026_50195_a_name_is_given_where_it_is_asked_for(lab: Lab) -> None:
    other = lab.image("busybox").replace("busybox", "renamed")
    lab.cri.tag_image(lab.image("busybox"), other)
    assert names(lab)[other] == names(lab)[lab.image("busybox")]
    lab.cri.untag_image(other)


# -- CVE-2022-0811: one sysctl that is two --------------------------------------------------------------------------

TWO = "1+kernel.core_pattern=|/tmp/attack"


SYSCTLS = (
    ("kernel.shm_rmid_forced", TWO),
    ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/tmp/attack"),
    ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/tmp/attack"),
    ("net.ipv4.ip_forward/../../../kernel/core_pattern", "|/tmp/attack"),
    ("net/../kernel/core_pattern", "|/tmp/attack"),
    ("kernel.core_pattern", "|/tmp/attack"),
)


def test_cve_2022_0811_a_sysctl_is_one_and_the_pods(lab: Lab, runtime: Runtime) -> None:
    before = HOST_CORE.read_text()
    for number, (name, value) in enumerate(SYSCTLS):
        with pytest.raises(OakumError):
            lab.cri.run_sandbox(lab.sandbox(f"sysctl-{number}", sysctls={name: value}))
        assert [s.config.metadata.name for s in lab.cri.list_sandboxes()] == [], name
        runtime.write("true", linux={"sysctl": {name: value}})
        done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert done.returncode == 1, (name, value)
        assert HOST_CORE.read_text() == before


def test_cve_2022_0811_control(tmp_path: Path) -> None:
    # A helper that takes several settings in one argument, here with files in place of the kernel's.
    (tmp_path / "kernel").mkdir()
    script = 'IFS=+; for s in $1; do k=${s%%=*}; echo "${s#*=}" > "$2/$(echo $k | tr . /)"; done'
    subprocess.run(["sh", "-c", script, "sh", f"kernel.shm_rmid_forced={TWO}", str(tmp_path)], check=True)
    assert (tmp_path / "kernel/core_pattern").read_text() == "|/tmp/attack\n"


def test_cve_2022_0811_sysctls_of_the_pod_are_set(lab: Lab) -> None:
    pod = {"sysctls": {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "2000 3000"}}
    shown = lab.output("cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_local_port_range", pod=pod)
    assert shown.split() == ["1", "2000", "3000"]


# -- CVE-2024-3154: an annotation becomes a property of a systemd unit ---------------------------------------------

PROPERTY = "org.systemd.property."
UNIT = {
    f"{PROPERTY}ExecStartPre": "[('/tmp/attack', ['attack'], false)]",
    f"{PROPERTY}SuccessAction": "'reboot'",
}


def test_cve_2024_3154_annotations_of_a_pod_never_reach_the_runtime(lab: Lab) -> None:
    with lab.pod("unit", annotations=UNIT) as pod:
        container = lab.started(pod, annotations=UNIT)
        spec = bundle_spec(lab, container)
        assert PROPERTY not in json.dumps(spec)


def test_cve_2024_3154_they_are_shown_to_who_wrote_them(lab: Lab) -> None:
    with lab.pod("unit", annotations=UNIT) as pod:
        container = lab.started(pod, annotations=UNIT)
        assert lab.cri.sandbox_status(pod).config.annotations == UNIT
        assert lab.cri.container_status(container).config.annotations == UNIT


def test_cve_2024_3154_control() -> None:
    spec = {
        "annotations": {**UNIT}
    }  # handed on, as the engine did that was broken; this is what a runtime reads off it
    properties = {
        k.removeprefix(PROPERTY): v for k, v in spec["annotations"].items() if k.startswith(PROPERTY)
    }
    assert properties["SuccessAction"] == "'reboot'"


# -- CVE-2026-15809: a line break in HOME becomes a line of /etc/passwd --------------------------------------------

HOME = "/home\nattacker::0:0::/root:/bin/sh"


def test_cve_2026_15809_a_home_with_a_line_break_makes_no_user(lab: Lab) -> None:
    image = hostile_image(lab, "home", {"Env": [f"HOME={HOME}", "PATH=/bin"]})
    before = Path("/etc/passwd").read_bytes()
    script = (
        "cat /etc/passwd 2>/dev/null; grep -c attacker /etc/passwd /etc/group 2>/dev/null; id -u attacker"
    )
    for user in ("", "4242"):
        shown = lab.output(script, image=image, user=user)
        assert "attacker:" not in shown
        assert "unknown user attacker" in shown
    with lab.pod("home") as pod:
        with pytest.raises(OakumError):
            lab.started(pod, image=image, user="attacker")
        container = lab.started(pod, "d", image=image, user="4242")
        assert lab.run(container, "id", "-u") == "4242\n"
    assert Path("/etc/passwd").read_bytes() == before


def test_cve_2026_15809_control(lab: Lab) -> None:
    image = hostile_image(lab, "home", {"Env": [f"HOME={HOME}", "PATH=/bin"]})
    env = dict(entry.split("=", 1) for entry in lab.cri.image_config(image).env)
    # a line for a user that the image does not know, as the engine made it that was broken
    passwd = f"root:x:0:0:root:/root:/bin/sh\n4242:x:4242:0:user:{env['HOME']}:/sbin/nologin\n"
    assert ("attacker", 0) in [(entry.name, entry.uid) for entry in parse_passwd(passwd.encode())]


def test_cve_2026_15809_the_environment_itself_may_hold_line_breaks(lab: Lab) -> None:
    image = hostile_image(lab, "lines", {"Env": ["HOME=/srv", "TEXT=one\ntwo", "PATH=/bin"]})
    assert lab.output('echo "$HOME $TEXT"', image=image, user="4242") == "/srv one\ntwo\n"
