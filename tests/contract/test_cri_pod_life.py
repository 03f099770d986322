# SPDX-License-Identifier: Apache-2.0
"""A pod's life as a kubelet drives it: real server, real registry, real containers, seen from inside."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from tests.contract.conftest import Node
from tests.support.cri import CriClient, container_config, failure, pod_config
from tests.support.patience import eventually, patient

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)")


def read_log(path: Path) -> list[tuple[str, str, str]]:
    lines = [LOG_LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(lines), path.read_text()
    return [(m[1], m[2], m[3]) for m in lines if m]


@pytest.fixture
def pods(node: Node, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Run a pod with its logs in tmp_path; it is removed with the test."""
    made: list[str] = []

    def run(name: str, **fields: object) -> str:
        made.append(node.client.run_pod(pod_config(name, str(tmp_path), **fields)))
        return made[-1]

    yield run
    assert node.server.daemon is not None
    print(node.server.daemon.log())  # seen when the test fails
    for pod in made:
        node.client.stop_pod(pod)
        node.client.remove_pod(pod)


def started(node: Node, pod: str, name: str, *command: str, **fields: object) -> str:
    container = node.client.create(pod, container_config(name, node.image, *command, **fields))
    node.client.start(container)
    return container


def test_version_and_health(node: Node) -> None:
    assert node.client.runtime.Version(pb.VersionRequest()).runtime_name == "oakum"
    answer = node.client.runtime.Status(pb.StatusRequest(verbose=True))
    conditions = {c.type: c for c in answer.status.conditions}
    assert conditions["RuntimeReady"].status, conditions
    assert conditions["NetworkReady"].status, conditions
    for text in answer.info.values():
        json.loads(text)
    config = node.client.runtime.RuntimeConfig(pb.RuntimeConfigRequest())
    assert config.linux.cgroup_driver == pb.CGROUPFS


def test_the_image_is_there(node: Node) -> None:
    spec = pb.ImageSpec(image=node.image)
    answer = node.client.images.ImageStatus(pb.ImageStatusRequest(image=spec, verbose=True))
    assert answer.image.id.startswith("sha256:")
    assert list(answer.image.repo_tags) == [node.image]
    assert answer.image.repo_digests[0].startswith(node.image.rpartition(":")[0] + "@sha256:")
    assert answer.image.size > 100_000
    document = json.loads(answer.info["info"])["imageSpec"]
    assert document["config"]["Env"] == ["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"]
    assert document["rootfs"]["type"] == "layers"
    by_id = pb.ImageSpec(image=answer.image.id)
    assert node.client.images.ImageStatus(pb.ImageStatusRequest(image=by_id)).image == answer.image
    assert node.client.pull(node.image) == answer.image.id
    assert answer.image.id in [i.id for i in node.client.images.ListImages(pb.ListImagesRequest()).images]
    usage = node.client.images.ImageFsInfo(pb.ImageFsInfoRequest()).image_filesystems
    assert usage[0].used_bytes.value > 100_000
    assert Path(usage[0].fs_id.mountpoint).is_dir()


def test_two_containers_of_a_pod_share_its_network(
    node: Node, pods: Callable[..., str], tmp_path: Path
) -> None:
    pod = pods("web", hostname="web-0", labels={"app": "web"})
    server = started(node, pod, "server", "httpd", "-f", "-p", "80", "-h", "/www")
    client = started(node, pod, "client", "sh", "-c", "hostname; echo on stderr >&2; exec sleep 600")
    address = node.client.pod_status(pod).status.network.ip
    eventually(lambda: node.client.exec(client, "wget", "-qO-", "http://127.0.0.1/").exit_code == 0)
    with urllib.request.urlopen(f"http://{address}/", timeout=60) as answer:
        assert b"it works" in answer.read()
    inside = node.client.exec(client, "wget", "-qO-", "http://127.0.0.1/")
    assert inside.stdout == b"<h1>it works</h1>\n"
    assert address.encode() in node.client.exec(client, "ip", "-4", "addr", "show", "eth0").stdout
    eventually(lambda: len(read_log(tmp_path / "client.log")) == 2)
    assert sorted(read_log(tmp_path / "client.log")) == [
        ("stderr", "F", "on stderr"),
        ("stdout", "F", "web-0"),
    ]

    assert [p.id for p in node.client.pods(label_selector={"app": "web"})] == [pod]
    assert {c.id for c in node.client.containers(pod_sandbox_id=pod)} == {server, client}
    status = node.client.pod_status(pod)
    assert status.status.state == pb.SANDBOX_READY
    assert {c.id: c.state for c in status.containers_statuses} == {
        server: pb.CONTAINER_RUNNING,
        client: pb.CONTAINER_RUNNING,
    }


def test_what_a_container_is_told_and_what_is_told_of_it(
    node: Node, pods: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("from the host")
    pod = pods("facts")
    security = pb.LinuxContainerSecurityContext(
        run_as_user=pb.Int64Value(value=1234), run_as_group=pb.Int64Value(value=55), supplemental_groups=[77]
    )
    container = started(
        node,
        pod,
        "c",
        "sleep",
        "600",
        envs=[pb.KeyValue(key="GIVEN", value="grün".encode())],
        working_dir="/tmp",
        mounts=[pb.Mount(container_path="/data", host_path=str(tmp_path / "data"), readonly=True)],
        labels={"l": "1"},
        annotations={"a": "2"},
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512),
            security_context=security,
        ),
    )
    say = "id -u; id -g; id -G; pwd; echo $GIVEN $FROM_IMAGE; cat /data/file; touch /data/x 2>&1; true"
    told = node.client.exec(container, "sh", "-c", say).stdout.decode().splitlines()
    assert told[:2] == ["1234", "55"]
    assert set(told[2].split()) >= {"55", "77"}
    assert told[3:5] == ["/tmp", "grün yes"]
    assert told[5].startswith("from the host")
    assert "Read-only file system" in told[5]

    answer = node.client.status(container, verbose=True)
    status = answer.status
    assert status.state == pb.CONTAINER_RUNNING
    assert status.started_at >= status.created_at > 0
    assert (status.user.linux.uid, status.user.linux.gid) == (1234, 55)
    assert 77 in status.user.linux.supplemental_groups
    assert status.resources.linux.memory_limit_in_bytes == 64 << 20
    assert status.mounts[0].container_path == "/data"
    assert status.log_path == str(tmp_path / "c.log")
    assert dict(status.labels) == {"l": "1"}
    assert dict(status.annotations) == {"a": "2"}
    info = json.loads(answer.info["info"])
    assert Path(f"/proc/{info['pid']}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert info["runtimeSpec"]["process"]["args"] == ["sleep", "600"]
    assert info["sandboxID"] == pod


def test_a_host_directory_that_is_missing_is_made(
    node: Node, pods: Callable[..., str], tmp_path: Path
) -> None:
    """As the kubelet's other runtimes do: a hostPath volume of no type counts on it."""
    mounts = [pb.Mount(container_path="/x", host_path=str(tmp_path / "not" / "there"))]
    container = started(node, pods("made"), "c", "sleep", "600", mounts=mounts)
    node.client.exec(container, "touch", "/x/file")
    assert (tmp_path / "not" / "there" / "file").exists()


def test_masked_and_read_only_paths_are_as_asked_and_none_when_none_are_said(
    node: Node, pods: Callable[..., str]
) -> None:
    pod = pods("masks")
    asked = pb.LinuxContainerSecurityContext(masked_paths=["/bin/ls", "/proc/keys"], readonly_paths=["/tmp"])
    masked = started(
        node, pod, "masked", "sleep", "600", linux=pb.LinuxContainerConfig(security_context=asked)
    )
    plain = started(node, pod, "plain", "sleep", "600")
    code, message = failure(lambda: node.client.exec(masked, "/bin/ls"))
    assert (code, "permission denied" in message.lower()) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert node.client.exec(masked, "cat", "/proc/keys").stdout == b""
    assert b"Read-only" in node.client.exec(masked, "touch", "/tmp/x").stderr
    assert node.client.exec(plain, "/bin/ls", "/www").stdout == b"index.html\n"
    assert node.client.exec(plain, "touch", "/tmp/x").exit_code == 0


def test_exec_gives_output_and_exit_code(node: Node, pods: Callable[..., str]) -> None:
    container = started(node, pods("exec"), "c", "sleep", "600")
    answer = node.client.exec(container, "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 42)
    killed = node.client.exec(container, "sh", "-c", "kill -9 $$")
    assert killed.exit_code == 137
    code, message = failure(lambda: node.client.exec(container, "/no/such/command"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "/no/such/command" in message
    assert "no such file" in message.lower()


def test_exec_that_takes_too_long_dies_with_all_it_started(node: Node, pods: Callable[..., str]) -> None:
    container = started(node, pods("slow"), "c", "sleep", "600")
    began = time.monotonic()
    code, _ = failure(lambda: node.client.exec(container, "sh", "-c", "sleep 31337 & sleep 31338", timeout=1))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1 <= time.monotonic() - began < patient(5)
    eventually(lambda: b"3133" not in node.client.exec(container, "ps").stdout)


def test_much_output_of_an_exec_arrives(node: Node, pods: Callable[..., str]) -> None:
    container = started(node, pods("flood"), "c", "sleep", "600")
    answer = node.client.exec(container, "head", "-c", "3000000", "/dev/zero")
    assert answer.stdout == b"\0" * 3_000_000
    cut = node.client.exec(container, "head", "-c", "30000000", "/dev/zero")
    assert 15_000_000 < len(cut.stdout) < 16 << 20
    assert b"output cut" in cut.stderr


def test_statistics(node: Node, pods: Callable[..., str]) -> None:
    pod = pods("stats")
    busy = started(
        node, pod, "busy", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=3; while :; do :; done"
    )
    idle = started(node, pod, "idle", "sleep", "600")

    def of(container: str) -> pb.ContainerStats:
        return node.client.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container)).stats

    eventually(lambda: of(busy).cpu.usage_core_nano_seconds.value > 50_000_000)
    eventually(lambda: of(busy).writable_layer.used_bytes.value >= 3 << 20)
    assert of(idle).cpu.usage_core_nano_seconds.value < of(busy).cpu.usage_core_nano_seconds.value
    assert of(idle).memory.working_set_bytes.value > 0
    assert of(idle).attributes.metadata.name == "idle"
    wanted = pb.ContainerStatsFilter(pod_sandbox_id=pod)
    listed = node.client.runtime.ListContainerStats(pb.ListContainerStatsRequest(filter=wanted)).stats
    assert {s.attributes.id for s in listed} == {busy, idle}
    sandbox = node.client.runtime.PodSandboxStats(pb.PodSandboxStatsRequest(pod_sandbox_id=pod)).stats.linux
    assert sandbox.cpu.usage_core_nano_seconds.value > 50_000_000
    assert sandbox.memory.usage_bytes.value > 0
    assert sandbox.network.default_interface.name == "eth0"
    assert sandbox.process.process_count.value >= 2
    assert {c.attributes.id for c in sandbox.containers} == {busy, idle}
    only = pb.PodSandboxStatsFilter(id=pod)
    all_ = node.client.runtime.ListPodSandboxStats(pb.ListPodSandboxStatsRequest(filter=only)).stats
    assert [s.attributes.metadata.name for s in all_] == ["stats"]


def test_limits_change_while_it_runs(node: Node, pods: Callable[..., str]) -> None:
    container = started(
        node,
        pods("limits"),
        "c",
        "sleep",
        "600",
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512)
        ),
    )
    change = pb.LinuxContainerResources(memory_limit_in_bytes=96 << 20)
    node.client.runtime.UpdateContainerResources(
        pb.UpdateContainerResourcesRequest(container_id=container, linux=change)
    )
    limits = node.client.status(container).status.resources.linux
    assert (limits.memory_limit_in_bytes, limits.cpu_shares) == (96 << 20, 512)
    stats = node.client.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container)).stats
    memory = stats.memory
    assert 95 << 20 < memory.available_bytes.value + memory.working_set_bytes.value <= 96 << 20


def test_a_log_that_was_rotated_is_written_anew(node: Node, pods: Callable[..., str], tmp_path: Path) -> None:
    loop = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"
    container = started(node, pods("rotate"), "c", "sh", "-c", loop)
    log, old = tmp_path / "c.log", tmp_path / "c.log.1"
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
    log.rename(old)
    node.client.runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=container))
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
    numbers = [int(text.split()[1]) for _, _, text in read_log(old) + read_log(log)]
    assert numbers == list(range(1, len(numbers) + 1))
    node.client.stop(container)
    request = pb.ReopenContainerLogRequest(container_id=container)
    code, _ = failure(lambda: node.client.runtime.ReopenContainerLog(request))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_how_containers_end(
    node: Node, pods: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pod = pods("ends")

    def ended(container: str) -> pb.ContainerStatus:
        eventually(lambda: node.client.status(container).status.state == pb.CONTAINER_EXITED)
        return node.client.status(container).status

    well = ended(started(node, pod, "well", "true"))
    assert (well.exit_code, well.reason) == (0, "Completed")
    assert well.finished_at >= well.started_at
    badly = ended(started(node, pod, "badly", "sh", "-c", "exit 7"))
    assert (badly.exit_code, badly.reason) == (7, "Error")
    trap = started(node, pod, "trap", "sh", "-c", "trap 'exit 9' TERM; echo; while :; do sleep 0.05; done")
    eventually(lambda: read_log(tmp_path / "trap.log"), "the trap is set")
    node.client.stop(trap, 10)
    assert ended(trap).exit_code == 9
    deaf = started(node, pod, "deaf", "sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done")
    eventually(lambda: read_log(tmp_path / "deaf.log"), "the trap is set")
    began = time.monotonic()
    node.client.stop(deaf, 1)
    assert 0.9 < time.monotonic() - began < patient(5)
    assert ended(deaf).exit_code == 137
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    greedy = ("sh", "-c", "x=x; while :; do x=$x$x; done")
    linux = pb.LinuxContainerConfig(resources=limits)
    # Docker forgets why when it hears of the end before it hears of the reason: seldom, on a busy machine.
    tries = 5 if request.node.callspec.params["backend"] == "docker" else 1
    reasons: list[str] = []
    while len(reasons) < tries and "OOMKilled" not in reasons:
        oom = ended(started(node, pod, f"oom{len(reasons)}", *greedy, linux=linux))
        assert oom.exit_code == 137
        reasons.append(oom.reason)
    assert reasons[-1] == "OOMKilled"


def test_stop_and_remove_of_what_is_gone_succeed(node: Node) -> None:
    pod = node.client.run_pod(pod_config("gone"))
    container = started(node, pod, "c", "sleep", "600")
    for _ in range(2):
        node.client.stop(container)
    for _ in range(2):
        node.client.remove(container)
    for _ in range(2):
        node.client.stop_pod(pod)
    assert node.client.pod_status(pod).status.state == pb.SANDBOX_NOTREADY
    for _ in range(2):
        node.client.remove_pod(pod)
    node.client.stop_pod(pod)
    node.client.stop(container)
    assert pod not in [p.id for p in node.client.pods()]
    assert failure(lambda: node.client.pod_status(pod))[0] is grpc.StatusCode.NOT_FOUND
    assert failure(lambda: node.client.status(container))[0] is grpc.StatusCode.NOT_FOUND


def test_removing_a_pod_takes_its_running_containers_along(node: Node) -> None:
    pod = node.client.run_pod(pod_config("whole"))
    container = started(node, pod, "c", "sleep", "600")
    pid = json.loads(node.client.status(container, verbose=True).info["info"])["pid"]
    node.client.remove_pod(pod)
    assert not Path(f"/proc/{pid}").exists()
    assert node.client.containers(pod_sandbox_id=pod) == []


def test_each_failure_has_its_code(node: Node, pods: Callable[..., str], tmp_path: Path) -> None:
    client, codes = node.client, grpc.StatusCode
    pod = pods("codes")
    container = started(node, pod, "c", "sleep", "600")
    create = container_config

    def code(call: Callable[[], object]) -> grpc.StatusCode:
        return failure(call)[0]

    assert code(lambda: client.run_pod(pod_config("codes", str(tmp_path)))) is codes.ALREADY_EXISTS
    assert code(lambda: client.create(pod, create("c", node.image, "true"))) is codes.ALREADY_EXISTS
    assert code(lambda: client.start(container)) is codes.FAILED_PRECONDITION
    assert code(lambda: client.create(pod, create("x", "localhost/absent:1", "true"))) is codes.NOT_FOUND
    assert code(lambda: client.create("f" * 64, create("x", node.image, "true"))) is codes.NOT_FOUND
    assert code(lambda: client.start("f" * 64)) is codes.NOT_FOUND
    assert code(lambda: client.exec("f" * 64, "true")) is codes.NOT_FOUND
    assert code(lambda: client.run_pod(pod_config("h"), "no-such-handler")) is codes.INVALID_ARGUMENT
    registry = node.image.partition("/")[0]
    status, message = failure(lambda: client.pull(f"{registry}/library/nothing:1"))
    assert status is codes.NOT_FOUND
    assert "library/nothing" in message
    assert code(lambda: client.pull("NOT A REFERENCE")) is codes.INVALID_ARGUMENT

    wrong = client.create(pod, create("wrong", node.image, "/no/such/command"))
    status, message = failure(lambda: client.start(wrong))
    assert "/no/such/command" in message
    ended = client.status(wrong).status
    assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 127, "StartError")
    assert code(lambda: client.exec(wrong, "true")) is codes.FAILED_PRECONDITION
    client.stop_pod(pod)
    assert code(lambda: client.create(pod, create("late", node.image, "true"))) is codes.FAILED_PRECONDITION


def test_a_pod_on_the_host_s_network_has_no_address_of_its_own(node: Node, pods: Callable[..., str]) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(network=pb.NODE))
    pod = pods("host", linux=pb.LinuxPodSandboxConfig(security_context=context))
    assert node.client.pod_status(pod).status.network.ip == ""
    own = pb.LinuxContainerSecurityContext(namespace_options=pb.NamespaceOption(network=pb.NODE))
    container = started(node, pod, "c", "sleep", "600", linux=pb.LinuxContainerConfig(security_context=own))
    inside = node.client.exec(container, "readlink", "/proc/self/ns/net").stdout.decode().strip()
    assert inside == str(Path("/proc/self/ns/net").readlink())


def test_containers_of_a_pod_can_share_processes(node: Node, pods: Callable[..., str]) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    context = pb.LinuxSandboxSecurityContext(namespace_options=shared)
    pod = pods("shared", linux=pb.LinuxPodSandboxConfig(security_context=context))
    linux = pb.LinuxContainerConfig(
        security_context=pb.LinuxContainerSecurityContext(namespace_options=shared)
    )
    # fields merge, and POD is the number 0: the option is set after the helper's CONTAINER
    made: list[str] = []
    for name in ("a", "b"):
        config = container_config(name, node.image, "sleep", "4711")
        config.linux.CopyFrom(linux)
        made.append(node.client.create(pod, config))
        node.client.start(made[-1])
    assert node.client.exec(made[0], "ps").stdout.count(b"sleep 4711") == 2


def test_remove_an_image_by_name(node: Node) -> None:
    other: CriClient = node.client
    registry = node.image.partition("/")[0]
    assert other.pull(f"{registry}/library/busybox") == other.pull(node.image)
    spec = pb.ImageSpec(image="localhost/never:there")
    other.images.RemoveImage(pb.RemoveImageRequest(image=spec))
    assert not other.images.ImageStatus(pb.ImageStatusRequest(image=spec)).HasField("image")
