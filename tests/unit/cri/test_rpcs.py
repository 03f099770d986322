# SPDX-License-Identifier: Apache-2.0
"""A pod's life through the front door, over a real socket and a backend in memory."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import grpc
import msgspec
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.rpc.exec import cut
from oakum.backend.config import ContainerConfig, HugepageLimit, SandboxConfig
from oakum.backend.status import RestoredSandbox
from tests.support.cri import CriClient, MemoryBackend, failure

POD = pb.PodSandboxConfig(
    metadata=pb.PodSandboxMetadata(name="web", uid="u1", namespace="prod", attempt=2),
    labels={"app": "web"},
    annotations={"note": "x"},
)


def container(name: str = "c", **fields: object) -> pb.ContainerConfig:
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image="busybox"))
    config.MergeFrom(pb.ContainerConfig(**fields))  # type: ignore[arg-type]
    return config


@pytest.fixture
def running(cri: CriClient) -> tuple[str, str]:
    cri.pull("busybox")
    pod = cri.run_pod(POD, "fast")
    made = cri.create(pod, container(labels={"tier": "a"}), POD)
    cri.start(made)
    return pod, made


def test_a_pod_from_pull_to_removal(cri: CriClient, running: tuple[str, str]) -> None:
    pod, made = running
    answer = cri.pod_status(pod)
    assert answer.status.network.ip == "10.1.2.3"
    assert [ip.ip for ip in answer.status.network.additional_ips] == ["fd00::3"]
    assert answer.status.runtime_handler == "fast"
    assert answer.status.metadata == POD.metadata
    assert [c.id for c in answer.containers_statuses] == [made]
    assert 0 < answer.timestamp <= time.time_ns()
    assert dict(answer.info) == {}
    assert [(p.id, p.runtime_handler) for p in cri.pods(label_selector={"app": "web"})] == [(pod, "fast")]
    assert cri.pods(label_selector={"app": "db"}) == []

    status = cri.status(made).status
    assert status.state == pb.CONTAINER_RUNNING
    assert status.image.image == "busybox"
    assert status.image_id.startswith("sha256:")
    assert status.stop_signal == pb.SIGNAL_SIGTERM
    cri.stop(made, 5)
    cri.stop(made)
    assert cri.status(made).status.state == pb.CONTAINER_EXITED
    cri.remove(made)
    cri.remove(made)
    cri.stop_pod(pod)
    assert cri.pod_status(pod).status.state == pb.SANDBOX_NOTREADY
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    cri.remove_pod(pod)
    assert cri.pods() == []


def test_each_failure_has_its_code_and_says_what_where_and_why(
    cri: CriClient, backend: MemoryBackend, running: tuple[str, str]
) -> None:
    pod, made = running
    assert failure(lambda: cri.status("nothing")) == (
        grpc.StatusCode.NOT_FOUND,
        "find container nothing: no such container",
    )
    assert failure(lambda: cri.pod_status("nothing"))[0] is grpc.StatusCode.NOT_FOUND
    assert failure(lambda: cri.run_pod(POD))[0] is grpc.StatusCode.ALREADY_EXISTS
    assert failure(lambda: cri.start(made))[0] is grpc.StatusCode.FAILED_PRECONDITION
    missing = container(image=pb.ImageSpec(image="absent"))
    assert failure(lambda: cri.create(pod, missing)) == (
        grpc.StatusCode.NOT_FOUND,
        "create container absent: not in the store (pull it first)",
    )
    assert failure(lambda: cri.exec(made, "sleep", "30", timeout=1)) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "exec sleep: not done within 1 s",
    )
    for call, field in [
        (lambda: cri.status(""), "container_id"),
        (lambda: cri.pod_status(""), "pod_sandbox_id"),
        (lambda: cri.stop_pod(""), "pod_sandbox_id"),
        (lambda: cri.exec(made), "cmd"),
        (lambda: cri.exec(made, "true", timeout=-1), "timeout"),
        (lambda: cri.stop(made, -1), "timeout"),
        (lambda: cri.exec(made, "a\0b"), "cmd"),
        (lambda: cri.pull(""), "image.image"),
        (lambda: cri.run_pod(pb.PodSandboxConfig()), "config.metadata"),
        (lambda: cri.create(pod, pb.ContainerConfig()), "config.metadata"),
        (
            lambda: cri.runtime.UpdateContainerResources(
                pb.UpdateContainerResourcesRequest(container_id=made)
            ),
            "linux",
        ),
    ]:
        code, message = failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, message
        assert f"check request field {field}: " in message
    assert backend.exec_timeouts == [1.0]


def test_a_bug_is_internal_with_a_reference_and_its_text_stays_in_the_log(
    cri: CriClient, running: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    _, made = running
    code, message = failure(lambda: cri.exec(made, "crash"))
    assert code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in message
    reference = message.split("reference ")[1].split()[0]
    record = next(r for r in caplog.records if r.exc_info)
    assert record.fields["reference"] == reference  # type: ignore[attr-defined]
    assert cri.exec(made, "echo", "still", "here").stdout == b"still here"


def test_the_log_tells_ids_but_neither_environment_nor_credentials(
    cri: CriClient, running: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="oakum")
    pod, _ = running
    cri.create(pod, container("d", envs=[pb.KeyValue(key="TOKEN", value=b"hunter2")]))
    cri.pull("busybox", username="me", password="hunter2")
    failure(lambda: cri.status("nothing"))
    lines = [str(getattr(r, "fields", "")) for r in caplog.records]
    assert not any("hunter2" in line or "TOKEN" in line for line in lines)
    assert any(pod in line and "'name': 'd'" in line and "'code': 'OK'" in line for line in lines)
    assert any("'image': 'busybox'" in line for line in lines)
    assert any("'code': 'NOT_FOUND'" in line and "no such container" in line for line in lines)


def test_what_this_version_does_not_have_says_why(cri: CriClient, running: tuple[str, str]) -> None:
    pod, made = running
    for call, reason in (
        (
            lambda: cri.runtime.CheckpointContainer(
                pb.CheckpointContainerRequest(container_id=made, location="/x")
            ),
            "CRIU",
        ),
        (
            lambda: cri.runtime.CheckpointPod(
                pb.CheckpointPodRequest(
                    pod_sandbox_id=pod, output_path="/x", options={"leaveRunning": "true"}
                )
            ),
            "CRIU",
        ),
        (lambda: cri.runtime.RestorePod(pb.RestorePodRequest(checkpoint_path="/x", config=POD)), "CRIU"),
    ):
        code, message = failure(call)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert reason in message
    nobody = pb.CheckpointContainerRequest(container_id="none", location="/x")
    assert failure(lambda: cri.runtime.CheckpointContainer(nobody))[0] is grpc.StatusCode.NOT_FOUND
    stopping = pb.CheckpointPodRequest(
        pod_sandbox_id=pod, output_path="/x", options={"leaveRunning": "false"}
    )
    code, message = failure(lambda: cri.runtime.CheckpointPod(stopping))
    assert (code, "options['leaveRunning']" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    for wrong, said in (
        (pb.RestorePodRequest(config=POD), "checkpoint_path"),
        (pb.RestorePodRequest(checkpoint_path="relative"), "checkpoint_path"),
        (pb.RestorePodRequest(checkpoint_path="/x", options={"start": "no"}), "options['start']"),
        (pb.RestorePodRequest(checkpoint_path="/x", config=pb.PodSandboxConfig()), "config.metadata"),
        (
            pb.RestorePodRequest(checkpoint_path="/x", container_configs=[container(), pb.ContainerConfig()]),
            "container_configs[1]",
        ),
    ):
        code, message = failure(lambda wrong=wrong: cri.runtime.RestorePod(wrong))
        assert (code, said in message) == (grpc.StatusCode.INVALID_ARGUMENT, True), message
    unknown = cri.channel.unary_unary("/runtime.v1.RuntimeService/Nonsense", None, None)
    assert failure(lambda: unknown(b""))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_restored_pod_is_what_the_backend_made(
    backend: MemoryBackend, cri: CriClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def restore(
        path: str,
        config: SandboxConfig | None,
        *,
        runtime_handler: str,
        container_configs: list[ContainerConfig],
    ) -> RestoredSandbox:
        names = [found.metadata.name for found in container_configs]
        asked.append((path, config and config.metadata.name, runtime_handler, names))
        return RestoredSandbox(sandbox_id="5" * 64, containers=(("c", "6" * 64), ("d", "7" * 64)))

    for name in ("checkpoint_container", "checkpoint_sandbox", "restore_sandbox"):
        monkeypatch.setattr(backend, name, restore, raising=False)
    request = pb.RestorePodRequest(
        checkpoint_path="/x", config=POD, runtime_handler="fast", container_configs=[container("d")]
    )
    answer = cri.runtime.RestorePod(request)
    assert answer.pod_sandbox_id == "5" * 64
    assert {c.name: c.container_id for c in answer.restored_containers} == {"c": "6" * 64, "d": "7" * 64}
    cri.runtime.RestorePod(pb.RestorePodRequest(checkpoint_path="/y"))
    assert asked == [("/x", "web", "fast", ["d"]), ("/y", None, "", [])]


def test_version_health_and_driver(cri: CriClient) -> None:
    version = cri.runtime.Version(pb.VersionRequest())
    assert (version.runtime_name, version.runtime_api_version) == ("oakum", "v1")
    quiet = cri.runtime.Status(pb.StatusRequest())
    assert {c.type: c.status for c in quiet.status.conditions} == {
        "RuntimeReady": True,
        "NetworkReady": False,
    }
    assert quiet.runtime_handlers[0].features.user_namespaces
    assert quiet.features.supplemental_groups_policy
    assert dict(quiet.info) == {}
    answer = cri.runtime.RuntimeConfig(pb.RuntimeConfigRequest())
    assert answer.linux.cgroup_driver == pb.CGROUPFS


def test_pod_addresses_are_noted_or_refused(cri: CriClient) -> None:
    def update(cidr: str) -> object:
        network = pb.NetworkConfig(pod_cidr=cidr)
        return cri.runtime.UpdateRuntimeConfig(
            pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=network))
        )

    update("10.88.0.0/16,fd00::/64")
    update("")
    assert failure(lambda: update("10.88.0.0/99"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    update("10.77.0.0/16")
    info = cri.runtime.Status(pb.StatusRequest(verbose=True)).info
    assert {key: json.loads(value) for key, value in info.items()} == {
        "root": "/somewhere",
        "limits": {"pids": 5},
        "podCIDR": "10.77.0.0/16",
    }


def test_a_paused_container_counts_as_running(
    cri: CriClient, backend: MemoryBackend, running: tuple[str, str]
) -> None:
    pod, made = running
    backend.set_state(made, "paused")
    cri.create(pod, container("idle"))
    wanted = pb.ContainerStateValue(state=pb.CONTAINER_RUNNING)
    assert [(c.id, c.state) for c in cri.containers(state=wanted)] == [(made, pb.CONTAINER_RUNNING)]
    assert len(cri.containers()) == 2
    assert cri.containers(state=wanted, label_selector={"tier": "b"}) == []
    created = pb.ContainerStateValue(state=pb.CONTAINER_CREATED)
    assert [c.metadata.name for c in cri.containers(state=created, pod_sandbox_id=pod)] == ["idle"]


def test_inspect_says_what_people_filter_by(
    cri: CriClient, backend: MemoryBackend, running: tuple[str, str], tmp_path: Path
) -> None:
    pod, made = running
    (tmp_path / "config.json").write_text('{"process":{"args":["sh"]}}')
    status = backend.containers[made]
    backend.containers[made] = msgspec.structs.replace(status, pid=77, bundle_path=str(tmp_path))
    info = json.loads(cri.status(made, verbose=True).info["info"])
    assert (info["pid"], info["sandboxID"]) == (77, pod)
    assert info["runtimeSpec"]["process"]["args"] == ["sh"]
    assert info["config"]["image"]["image"] == "busybox"

    backend.containers[made] = msgspec.structs.replace(status, bundle_path="/nowhere")
    assert json.loads(cri.status(made, verbose=True).info["info"])["runtimeSpec"] is None

    sandbox = json.loads(cri.pod_status(pod, verbose=True).info["info"])
    assert sandbox["pid"] == 42
    assert sandbox["runtimeSpec"]["linux"]["namespaces"] == [{"type": "network", "path": "/run/x/ns/net"}]
    assert sandbox["config"]["metadata"]["name"] == "web"


def test_limits_change_and_nothing_else(
    cri: CriClient, backend: MemoryBackend, running: tuple[str, str]
) -> None:
    _, made = running
    cri.runtime.UpdateContainerResources(
        pb.UpdateContainerResourcesRequest(
            container_id=made,
            linux=pb.LinuxContainerResources(
                memory_limit_in_bytes=64 << 20,
                cpu_quota=-1,
                hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4)],
            ),
        )
    )
    (update,) = backend.updates
    assert (update.memory_limit_bytes, update.cpu_quota_us, update.oom_score_adj) == (64 << 20, -1, None)
    assert update.hugepage_limits == (HugepageLimit(page_size="2MB", limit_bytes=4),)


def test_logs_are_reopened(cri: CriClient, backend: MemoryBackend, running: tuple[str, str]) -> None:
    _, made = running
    cri.runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=made))
    assert backend.reopened == [made]
    backend.set_state(made, "exited")
    gone = pb.ReopenContainerLogRequest(container_id=made)
    assert failure(lambda: cri.runtime.ReopenContainerLog(gone))[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_statistics_of_one_and_of_all(cri: CriClient, running: tuple[str, str]) -> None:
    pod, made = running
    one = cri.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=made)).stats
    assert one.attributes.metadata.name == "c"
    assert one.cpu.usage_core_nano_seconds.value == 7
    assert not one.cpu.HasField("usage_nano_cores")
    assert not one.HasField("memory")
    wanted = pb.ContainerStatsFilter(pod_sandbox_id=pod, label_selector={"tier": "a"})
    all_ = cri.runtime.ListContainerStats(pb.ListContainerStatsRequest(filter=wanted)).stats
    assert [s.attributes.id for s in all_] == [made]
    sandbox = cri.runtime.PodSandboxStats(pb.PodSandboxStatsRequest(pod_sandbox_id=pod)).stats
    assert [c.attributes.id for c in sandbox.linux.containers] == [made]
    other = pb.PodSandboxStatsFilter(label_selector={"app": "db"})
    assert not cri.runtime.ListPodSandboxStats(pb.ListPodSandboxStatsRequest(filter=other)).stats


def test_images(cri: CriClient, backend: MemoryBackend) -> None:
    spec = pb.ImageSpec(image="busybox")
    assert not cri.images.ImageStatus(pb.ImageStatusRequest(image=spec)).HasField("image")
    pulled = cri.pull("busybox", username="me", password="pw", identity_token="t")
    auth = backend.auths[-1]
    assert auth is not None
    assert (auth.username, auth.password, auth.identity_token) == ("me", "pw", "t")
    answer = cri.images.ImageStatus(pb.ImageStatusRequest(image=spec, verbose=True))
    assert (answer.image.id, answer.image.uid.value, answer.image.size) == (pulled, 7, 5)
    assert json.loads(answer.info["info"])["imageSpec"]["config"]["User"] == "7"
    assert [i.id for i in cri.images.ListImages(pb.ListImagesRequest()).images] == [pulled]
    named = pb.ListImagesRequest(filter=pb.ImageFilter(image=pb.ImageSpec(image="other")))
    assert not cri.images.ListImages(named).images
    usage = cri.images.ImageFsInfo(pb.ImageFsInfoRequest())
    assert usage.image_filesystems[0].fs_id.mountpoint == "/images"
    assert usage.container_filesystems[0].used_bytes.value == 10
    cri.images.RemoveImage(pb.RemoveImageRequest(image=spec))
    cri.images.RemoveImage(pb.RemoveImageRequest(image=spec))
    assert backend.stored == {}


def test_a_client_that_gives_up_ends_its_pull(cri: CriClient, backend: MemoryBackend) -> None:
    request = pb.PullImageRequest(image=pb.ImageSpec(image="endless"))
    call = cri.images.PullImage.future(request)
    assert backend.pull_began.wait(60)
    assert not backend.pull_cancelled.is_set()
    call.cancel()
    assert backend.pull_cancelled.wait(60)


def test_the_caller_s_deadline_bounds_an_exec_without_one(
    cri: CriClient, backend: MemoryBackend, running: tuple[str, str]
) -> None:
    _, made = running
    code, _ = failure(lambda: cri.exec(made, "sleep", "30", rpc_timeout=1.5))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0 < backend.exec_timeouts[-1] <= 1.6
    cri.runtime.ExecSync(pb.ExecSyncRequest(container_id=made, cmd=["true"]))
    assert backend.exec_timeouts[-1] == 0


def test_waiting_calls_do_not_hold_up_quick_ones(cri: CriClient, running: tuple[str, str]) -> None:
    _, made = running
    threads = [threading.Thread(target=cri.exec, args=(made, "sleep", "3")) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    cri.status(made)
    assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()


def test_output_too_long_for_one_message_is_cut_and_says_so(cri: CriClient, running: tuple[str, str]) -> None:
    _, made = running
    answer = cri.exec(made, "flood", str(12 << 20))
    assert answer.ByteSize() <= 16 << 20
    assert answer.exit_code == 0
    assert b"oakum: output cut: at least " in answer.stderr[-200:]


def test_how_output_is_cut() -> None:
    assert cut(b"a" * 5, b"b" * 5, 10) == (b"a" * 5, b"b" * 5)
    out, err = cut(b"a" * 50, b"b" * 3, 10)
    assert out == b"a" * 7
    assert err.startswith(b"bbb\noakum: output cut: at least 43 bytes of stdout and 0 bytes of stderr")
    out, err = cut(b"a" * 2, b"b" * 50, 10)
    assert out == b"aa"
    assert err.startswith(b"b" * 8 + b"\n")


def test_long_lists_pass(cri: CriClient, backend: MemoryBackend) -> None:
    for i in range(3000):
        backend.pull_image(f"registry.example/{'x' * 500}/{i}")
    assert len(cri.images.ListImages(pb.ListImagesRequest()).images) == 3000


def test_a_pod_s_limits_change_and_what_is_not_said_stays(
    cri: CriClient, backend: MemoryBackend, running: tuple[str, str]
) -> None:
    pod, _ = running
    cri.runtime.UpdatePodSandboxResources(
        pb.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=pod, resources=pb.LinuxContainerResources(cpu_shares=100, oom_score_adj=-3)
        )
    )
    config = backend.sandboxes[pod].config
    assert config.overhead is None
    assert config.resources is not None
    assert (config.resources.cpu_shares, config.resources.oom_score_adj) == (100, -3)
    for request, code in (
        (pb.UpdatePodSandboxResourcesRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="none"), grpc.StatusCode.NOT_FOUND),
        (
            pb.UpdatePodSandboxResourcesRequest(
                pod_sandbox_id=pod, overhead=pb.LinuxContainerResources(cpu_shares=-1)
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        assert failure(lambda request=request: cri.runtime.UpdatePodSandboxResources(request))[0] is code
