# SPDX-License-Identifier: Apache-2.0
"""What is particular to a Docker Engine below: two engines behind one socket, what Docker has no field for, what it loses."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from tests.conftest import Directories
from tests.contract.conftest import Node
from tests.support.cri import container_config, failure, pod_config
from tests.support.docker_peer import DockerPeer
from tests.support.patience import eventually
from tests.support.server import OakumServer

NODE_ONLY = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(network=pb.NODE))


@pytest.fixture(scope="module")
def node(
    module_directories: Directories,
    busybox: str,
    tmp_path_factory: pytest.TempPathFactory,
    dockerd: DockerPeer,
) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("n")
    argv = ["--backend", "docker", "--docker-host", dockerd.host]
    with OakumServer(*module_directories, str(directory), *argv) as server, server.client() as client:
        client.pull(busybox)
        yield Node(server, client, busybox)


@pytest.fixture
def pods(node: Node, tmp_path: Path) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def run(name: str, handler: str = "", **fields: Any) -> str:
        made.append(node.client.run_pod(pod_config(name, str(tmp_path), **fields), handler))
        return made[-1]

    yield run
    assert node.server.daemon is not None
    print(node.server.daemon.log())
    for pod in made:
        node.client.stop_pod(pod)
        node.client.remove_pod(pod)


def running(node: Node, pod: str, name: str, *command: str, **fields: Any) -> str:
    container = node.client.create(pod, container_config(name, node.image, *command, **fields))
    node.client.start(container)
    return container


def secured(**fields: Any) -> pb.LinuxContainerConfig:
    return pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**fields))


def said(node: Node, container: str, script: str) -> str:
    return node.client.exec(container, "sh", "-c", script).stdout.decode().strip()


def test_pods_of_both_engines_run_side_by_side_behind_one_socket(
    node: Node, pods: Callable[..., str], dockerd: DockerPeer
) -> None:
    handlers = {h.name for h in node.client.runtime.Status(pb.StatusRequest()).runtime_handlers}
    assert {"", "oakum", "docker", "runc"} <= handlers
    made = {name: pods(f"on-{name}", name) for name in ("docker", "oakum", "runc")}
    # the image was pulled into Docker alone: the native engine gets it when a container wants it
    containers = {name: running(node, pod, "c", "httpd", "-f", "-p", "80") for name, pod in made.items()}
    in_docker = set(dockerd.docker("ps", "--no-trunc", "-q").split())
    assert {made["docker"], made["runc"], containers["docker"], containers["runc"]} <= in_docker
    assert not {made["oakum"], containers["oakum"]} & in_docker
    assert {p.id: p.runtime_handler for p in node.client.pods()} == {pod: name for name, pod in made.items()}
    assert {c.id for c in node.client.containers()} == set(containers.values())
    assert len({node.client.status(c).status.image_id for c in containers.values()}) == 1
    for name, pod in made.items():
        address = node.client.pod_status(pod).status.network.ip
        assert said(node, containers[name], "ip -4 addr show eth0 | grep -c " + address) == "1"
        # httpd says 404 to what it has not, which is an answer
        fetch = ["busybox", "wget", "-qO-", f"http://{address}/none"]
        eventually(
            lambda fetch=fetch: b"404" in subprocess.run(fetch, check=False, capture_output=True).stderr,
            f"an answer of the pod on {name}",
        )
    code, message = failure(lambda: node.client.run_pod(pod_config("nowhere"), "no-such"))
    assert (code, "no-such" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_what_plain_docker_runs_is_not_listed_and_left_alone(
    node: Node, pods: Callable[..., str], dockerd: DockerPeer
) -> None:
    pods("ours")
    other = dockerd.docker("create", node.image, "sleep", "600").strip()
    try:
        assert other not in {c.id for c in node.client.containers()}
        code, _ = failure(lambda: node.client.status(other))
        assert code is grpc.StatusCode.NOT_FOUND
        node.client.stop(other)
        node.client.remove(other)
        node.client.stop_pod(other)
        node.client.remove_pod(other)
        assert other in dockerd.docker("ps", "-aq", "--no-trunc").split()
    finally:
        dockerd.docker("rm", "-f", other)


def test_groups_are_those_that_are_meant(node: Node, pods: Callable[..., str], dockerd: DockerPeer) -> None:
    """Docker adds the image's groups when no group is said, and none when one is: neither is what CRI says."""
    base = dockerd.docker("create", node.image, "true").strip()
    named = f"{node.image.rpartition('/')[0]}/grouped:latest"
    passwd = b"root:x:0:0::/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n"
    group = b"root:x:0:\nworker:x:1000:\nstaff:x:50000:worker\n"
    for path, data in (("/etc/passwd", passwd), ("/etc/group", group)):
        subprocess.run(dockerd.argv("cp", "-", f"{base}:/"), input=_tar(path.lstrip("/"), data), check=True)
    dockerd.docker("commit", base, named)
    dockerd.docker("rm", base)
    pod = pods("groups")
    wanted = {
        ("merge", False): "1000 50000 77",
        ("merge", True): "1000 50000 77",
        ("strict", False): "1000 77",
        ("strict", True): "1000 77",
    }
    for (policy, with_group), groups in wanted.items():
        context: dict[str, Any] = {
            "run_as_user": pb.Int64Value(value=1000),
            "supplemental_groups": [77],
            "supplemental_groups_policy": pb.Strict if policy == "strict" else pb.Merge,
        }
        if with_group:
            context["run_as_group"] = pb.Int64Value(value=1000)
        name = f"{policy}-{with_group}".lower()
        config = container_config(name, named, "sleep", "600", linux=secured(**context))
        container = node.client.create(pod, config)
        node.client.start(container)
        assert set(said(node, container, "id -G").split()) == set(groups.split()), name
        assert set(node.client.status(container).status.user.linux.supplemental_groups) == {
            int(g) for g in groups.split()
        }


def _tar(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def test_mounts_that_docker_of_this_age_cannot_make(
    node: Node, pods: Callable[..., str], tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(outer / "inner")], check=True)
    try:
        mounts = [
            pb.Mount(container_path="/rro", host_path=str(outer), readonly=True, recursive_read_only=True),
            pb.Mount(container_path="/noexec", host_path=str(outer), mount_options=["noexec"]),
            pb.Mount(container_path="/image", image=pb.ImageSpec(image=node.image), readonly=True),
            pb.Mount(
                container_path="/part",
                image=pb.ImageSpec(image=node.image),
                image_sub_path="www",
                readonly=True,
            ),
        ]
        container = running(node, pods("mounts"), "c", "sleep", "600", mounts=mounts)
        assert "Read-only" in said(node, container, "touch /rro/inner/x 2>&1")
        assert said(node, container, "cp /bin/busybox /noexec/b && /noexec/b true 2>&1; echo $?").endswith(
            "126"
        )
        assert said(node, container, "cat /image/www/index.html") == said(
            node, container, "cat /part/index.html"
        )
        assert "Read-only" in said(node, container, "touch /image/x 2>&1")
        assert node.client.status(container).status.mounts[2].image.image == node.image
    finally:
        subprocess.run(["umount", str(outer / "inner")], check=True)
    state = Path(node.server.state, "docker/mounts")
    assert not state.exists() or not any(state.iterdir())


def test_what_docker_has_no_field_for_is_done_or_refused(node: Node, pods: Callable[..., str]) -> None:
    pod = pods("fields")
    pages = pb.LinuxContainerResources(hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4 << 20)])
    limited = running(
        node,
        pod,
        "huge",
        "sleep",
        "600",
        linux=pb.LinuxContainerConfig(resources=pages),
        stop_signal=pb.SIGNAL_SIGUSR1,
    )
    status = node.client.status(limited, verbose=True)
    assert status.status.stop_signal == pb.SIGNAL_SIGUSR1
    cgroups = Path(f"/proc/{json.loads(status.info['info'])['pid']}/cgroup").read_text()
    path = next(line.split(":", 2)[2] for line in cgroups.splitlines() if "hugetlb" in line or "::" in line)
    files = [
        Path("/sys/fs/cgroup/hugetlb" + path, "hugetlb.2MB.limit_in_bytes"),
        Path("/sys/fs/cgroup" + path, "hugetlb.2MB.max"),
        Path("/sys/fs/cgroup/unified" + path, "hugetlb.2MB.max"),
    ]
    # a kernel without huge pages has none of both files, and a kubelet on it names no size
    assert {file.read_text().strip() for file in files if file.exists()} <= {str(4 << 20)}
    ambient = secured(capabilities=pb.Capability(add_ambient_capabilities=["NET_RAW"]))
    mapped = pb.Mount(
        container_path="/m", host_path="/", uidMappings=[pb.IDMapping(host_id=0, container_id=0, length=1)]
    )
    refused: list[tuple[dict[str, Any], str]] = [
        ({"linux": ambient}, "ambient"),
        ({"mounts": [mapped]}, "ids of a mount"),
    ]
    for wanted, word in refused:
        config = container_config("refused", node.image, "true", **wanted)
        code, message = failure(lambda config=config: node.client.create(pod, config))
        assert (code, word in message) == (grpc.StatusCode.UNIMPLEMENTED, True), message


def test_what_goes_behind_our_back_keeps_nobody(
    node: Node, pods: Callable[..., str], dockerd: DockerPeer
) -> None:
    pod = pods("behind")
    gone, kept = (running(node, pod, name, "sleep", "600") for name in ("gone", "kept"))
    dockerd.docker("rm", "-f", gone)
    assert failure(lambda: node.client.status(gone))[0] is grpc.StatusCode.NOT_FOUND
    assert {c.id for c in node.client.containers(pod_sandbox_id=pod)} == {kept}
    node.client.stop(gone)
    node.client.remove(gone)
    dockerd.docker("kill", pod)
    eventually(lambda: node.client.pod_status(pod).status.state == pb.SANDBOX_NOTREADY)
    config = container_config("late", node.image, "true")
    assert failure(lambda: node.client.create(pod, config))[0] is grpc.StatusCode.FAILED_PRECONDITION
    node.client.stop_pod(pod)
    node.client.remove_pod(pod)
    assert kept not in dockerd.docker("ps", "-aq", "--no-trunc").split()
    assert node.client.run_pod(pod_config("behind", "")) != pod
    again = next(p.id for p in node.client.pods() if p.metadata.name == "behind")
    # a sandbox that Docker has lost altogether is as one that was removed
    dockerd.docker("rm", "-f", again)
    node.client.stop_pod(again)
    node.client.remove_pod(again)
    assert node.client.pods() == []


def test_a_half_made_pod_has_not_taken_its_name(
    node: Node, pods: Callable[..., str], dockerd: DockerPeer
) -> None:
    first = pods("half")
    code, message = failure(lambda: node.client.run_pod(pod_config("half")))
    assert (code, first[:12] in message) == (grpc.StatusCode.ALREADY_EXISTS, True)
    # as a server leaves it that is killed before the last step
    Path(node.server.root, "docker/pods", first, "pod.json").unlink()
    second = pods("half")
    assert second != first
    assert first not in dockerd.docker("ps", "-aq", "--no-trunc").split()
    assert node.client.pod_status(second).status.state == pb.SANDBOX_READY


def test_docker_away_is_said_and_the_native_pods_go_on(
    directories: Directories, busybox: str, tmp_path: Path
) -> None:
    """dockerd is killed and started again under pods of both engines."""
    with DockerPeer(str(tmp_path / "d"), own_network=False) as dockerd:
        argv = ["--backend", "docker", "--docker-host", dockerd.host]
        with OakumServer(*directories, str(tmp_path / "s"), *argv) as server, server.client() as client:
            client.pull(busybox)
            node = Node(server, client, busybox)
            native = client.run_pod(pod_config("native", str(tmp_path)), "oakum")
            inside = running(node, native, "n", "sleep", "600")
            lost = client.run_pod(pod_config("lost", str(tmp_path)), "docker")
            container = running(node, lost, "d", "sleep", "600")
            dockerd.kill()
            code, message = failure(lambda: client.status(container))
            assert (code, "ocker" in message) == (grpc.StatusCode.UNAVAILABLE, True)
            assert said(node, inside, "echo here") == "here"
            conditions = {c.type: c for c in client.runtime.Status(pb.StatusRequest()).status.conditions}
            assert not conditions["RuntimeReady"].status
            dockerd.start()
            # without live-restore dockerd ends what it finds running
            eventually(lambda: client.status(container).status.state == pb.CONTAINER_EXITED, timeout_s=30)
            assert client.pod_status(lost).status.state == pb.SANDBOX_NOTREADY
            assert client.pod_status(native).status.state == pb.SANDBOX_READY
            for pod in (lost, native):
                client.stop_pod(pod)
                client.remove_pod(pod)
            assert client.pods() == []


def test_docker_s_images_come_into_the_native_store(
    node: Node, dockerd: DockerPeer, directories: Directories
) -> None:
    other = OakumServer(*directories, "")
    argv = other.command_line("-n", "k8s.io", "migrate", "docker", "--docker-host", dockerd.host)
    dry = subprocess.run([*argv, "--dry-run"], check=True, capture_output=True, text=True).stdout
    assert "would come" in dry
    keep = dockerd.docker("create", "--name", "left-over", node.image).strip()
    try:
        first = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        again = subprocess.run([*argv, "--format", "json"], check=True, capture_output=True, text=True).stdout
    finally:
        dockerd.docker("rm", keep)
    assert f"{node.image} " in first
    assert "left-over" in first
    assert {image["result"] for image in json.loads(again)["images"]} == {"here"}
    listed = subprocess.run(
        other.command_line("-n", "k8s.io", "image", "ls"), check=True, capture_output=True, text=True
    ).stdout
    assert node.image.rpartition(":")[0] in listed
