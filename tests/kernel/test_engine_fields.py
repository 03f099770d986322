# SPDX-License-Identifier: Apache-2.0
"""Fields of pods and containers on the real kernel: image volumes, mount options, huge pages, limits of pods."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from oakum.backend.config import HugepageLimit, Mount, Resources, SELinuxOptions
from oakum.engine import cdi, host, imageviews
from oakum.errors import InvalidArgument, NotFound
from tests.support.engines import Lab
from tests.support.patience import eventually


def view(lab: Lab, sub_path: str = "", image: str = "volumes", **fields: object) -> Mount:
    return Mount(
        container_path="/view",
        image=lab.image(image),
        image_sub_path=sub_path,
        readonly=True,
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.cgroup
def test_an_image_as_a_volume_and_a_place_in_it(lab: Lab) -> None:
    assert "seed" in lab.output("ls /view/data /view/bin", mounts=(view(lab),))
    assert lab.output("ls /view", mounts=(view(lab, "data"),)) == "seed\n"
    assert lab.output("cat /view", mounts=(view(lab, "data/seed"),)) == "from the image\n"
    assert "Read-only" in lab.output("touch /view/x 2>&1", mounts=(view(lab, "data"),))
    assert lab.output("/view/busybox echo runs", mounts=(view(lab, "bin", "busybox"),)) == "runs\n"


def test_a_place_that_an_image_has_not_is_not_found_nor_outside_of_it(lab: Lab) -> None:
    with lab.pod("missing") as pod:
        for sub_path in ("none", "data/seed/none", "outside/hostname"):
            config = lab.container("c", mounts=(view(lab, sub_path),))
            with pytest.raises(NotFound, match="volumes"):
                lab.cri.create_container(pod, config)


def test_the_status_says_which_image_was_taken(lab: Lab) -> None:
    with lab.pod("taken") as pod:
        container = lab.cri.create_container(pod, lab.container("c", mounts=(view(lab),)))
        (mount,) = lab.cri.container_status(container).config.mounts
        image = lab.cri.image_status(lab.image("volumes"))
        assert image is not None
        assert mount.image_id == image.id


def test_layers_at_a_place_hide_and_remove_as_the_merged_tree_does(tmp_path: Path) -> None:
    upper, middle, lower = (tmp_path / name for name in ("upper", "middle", "lower"))
    for layer, names in ((upper, ("a/one",)), (middle, ("a/two", "b/x")), (lower, ("a/three", "b/y", "c/z"))):
        for name in names:
            (layer / name).parent.mkdir(parents=True, exist_ok=True)
            (layer / name).write_text(name)
    (upper / "link").symlink_to("/a")
    layers = [str(upper), str(middle), str(lower)]
    assert imageviews.directories_at(layers, "link/", "i") == tuple(f"{layer}/a" for layer in layers)
    assert imageviews.directories_at(layers, "b/y", "i") == (f"{lower}/b/y",)
    os.setxattr(middle / "a", "trusted.overlay.opaque", b"y")
    assert imageviews.directories_at(layers, "a", "i") == (f"{upper}/a", f"{middle}/a")
    os.mknod(upper / "c", 0o000 | 0o020000, 0)
    with pytest.raises(NotFound):
        imageviews.directories_at(layers, "c", "i")
    with pytest.raises(NotFound):
        imageviews.directories_at(layers, "a/three", "i")


@pytest.mark.parametrize("options", [("bogus",), ("noexec", "exec"), ("lowerdir=/",), ("bind",)])
def test_options_that_no_mount_can_have_are_refused(lab: Lab, options: tuple[str, ...]) -> None:
    with lab.pod("options") as pod:
        config = lab.container("c", mounts=(view(lab, options=options),))
        with pytest.raises(InvalidArgument):
            lab.cri.create_container(pod, config)


def test_mount_options_hold(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "run"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    mount = Mount(container_path="/host", host_path=str(tmp_path), options=("noexec", "nosuid"))
    assert "ermission denied" in lab.output("/host/run 2>&1", mounts=(mount,))
    assert "ermission denied" in lab.output(
        "/view/busybox 2>&1", mounts=(view(lab, "bin", "busybox", options=("noexec",)),)
    )


@pytest.mark.cgroup
@pytest.mark.parametrize("limit", [0, 2 << 20])
def test_limits_of_huge_pages_fail_no_container(lab: Lab, limit: int) -> None:
    pages = tuple(HugepageLimit(page_size=size, limit_bytes=limit) for size in ("2MB", "1GB"))
    assert lab.output("echo ran", resources=Resources(hugepage_limits=pages)) == "ran\n"


@pytest.mark.cgroup
def test_a_pod_s_limits_change(lab: Lab) -> None:
    with lab.pod("grown", resources=Resources(memory_limit_bytes=64 << 20)) as pod:
        lab.cri.update_sandbox_resources(
            pod, overhead=Resources(cpu_shares=3), resources=Resources(memory_limit_bytes=96 << 20)
        )
        status = lab.cri.sandbox_status(pod)
        assert status.config.overhead == Resources(cpu_shares=3)
        assert status.config.resources is not None
        assert status.config.resources.memory_limit_bytes == 96 << 20
        stats = lab.cri.sandbox_stats(pod)
        assert stats.memory is not None
        assert stats.memory.limit_bytes == 96 << 20
        with pytest.raises(InvalidArgument):
            lab.cri.update_sandbox_resources(pod, overhead=None, resources=Resources(memory_limit_bytes=5))
    with pytest.raises(NotFound):
        lab.cri.update_sandbox_resources(pod, overhead=None, resources=None)


def test_a_label_is_refused_where_nothing_would_enforce_it(lab: Lab) -> None:
    if host.has_selinux():
        assert lab.output("echo ran", selinux=SELinuxOptions(type="container_t")) == "ran\n"
        return
    with lab.pod("label") as pod, pytest.raises(InvalidArgument, match="SELinux is not enabled"):
        lab.cri.create_container(pod, lab.container("c", selinux=SELinuxOptions(type="container_t")))


@pytest.mark.cgroup
def test_a_device_by_name(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = {
        "env": ["GADGET=ready"],
        "deviceNodes": [{"path": "/dev/gadget", "hostPath": "/dev/zero", "permissions": "rw"}],
        "mounts": [{"hostPath": str(tmp_path), "containerPath": "/gadget", "options": ["ro", "bind"]}],
    }
    spec = {
        "cdiVersion": "0.8.0",
        "kind": "vendor.example/gadget",
        "devices": [{"name": "a", "containerEdits": edits}],
    }
    (tmp_path / "gadget.json").write_text(json.dumps(spec))
    monkeypatch.setattr(cdi, "DIRECTORIES", (str(tmp_path),))
    script = "echo $GADGET; head -c 3 /dev/gadget | od -An -tx1; ls /gadget"
    told = lab.output(script, cdi_devices=("vendor.example/gadget=a",))
    assert told.split() == ["ready", "00", "00", "00", "gadget.json"]
    with lab.pod("unknown") as pod, pytest.raises(NotFound, match="gadget=b"):
        lab.cri.create_container(pod, lab.container("c", cdi_devices=("vendor.example/gadget=b",)))


@pytest.mark.cgroup
def test_a_higher_oom_score_reaches_what_runs(lab: Lab) -> None:
    with lab.pod("score") as pod:
        container = lab.started(pod, "c")
        lab.cri.update_container_resources(container, Resources(oom_score_adj=777))
        assert lab.run(container, "cat", "/proc/1/oom_score_adj") == "777\n"
        # Back needs a capability that some hosts withhold: then it stays, and nothing fails.
        lab.cri.update_container_resources(container, Resources(oom_score_adj=500))
        assert lab.run(container, "cat", "/proc/1/oom_score_adj") in ("500\n", "777\n")
        assert lab.cri.container_status(container).resources.oom_score_adj == 500


def test_ambient_capabilities_reach_an_ordinary_user(lab: Lab) -> None:
    script = "grep -E 'Cap(Amb|Eff)' /proc/self/status"
    net_bind = f"{1 << 10:016x}"
    told = lab.output(
        script,
        user="1000",
        add_capabilities=("NET_BIND_SERVICE",),
        ambient_capabilities=("NET_BIND_SERVICE",),
    )
    assert told.split() == ["CapEff:", net_bind, "CapAmb:", net_bind]
    assert lab.output(script, user="1000").split() == ["CapEff:", "0" * 16, "CapAmb:", "0" * 16]


def test_a_real_time_stop_signal(lab: Lab) -> None:
    with lab.pod("signal") as pod:
        script = "trap 'exit 3' 37; touch /ready; while :; do sleep 0.05; done"
        container = lab.started(pod, "c", script, stop_signal="SIGRTMIN+3")
        eventually(lambda: lab.run(container, "sh", "-c", "test -e /ready && echo yes || true"))
        assert lab.cri.container_status(container).stop_signal == "SIGRTMIN+3"
        lab.cri.stop_container(container, timeout_s=60)
        assert lab.cri.container_status(container).exit_code == 3


@pytest.mark.cgroup
def test_processors_of_a_container(lab: Lab) -> None:
    told = lab.output(
        "grep Cpus_allowed_list /proc/self/status", resources=Resources(cpuset_cpus="0", cpuset_mems="0")
    )
    assert told.split() == ["Cpus_allowed_list:", "0"]


def test_a_read_only_mount_with_all_below_it(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "inner")], check=True)
    try:
        mount = Mount(container_path="/m", host_path=str(tmp_path), readonly=True)
        script = "touch /m/x 2>&1; touch /m/inner/x 2>&1 && echo written; rm -f /m/inner/x"
        assert "written" in lab.output(script, mounts=(mount,))
        whole = Mount(container_path="/m", host_path=str(tmp_path), readonly=True, recursive_read_only=True)
        told = lab.output(script, mounts=(whole,))
        assert told.count("Read-only file system") >= 2
        assert "written" not in told
    finally:
        subprocess.run(["umount", str(tmp_path / "inner")], check=True)
