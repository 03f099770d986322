# SPDX-License-Identifier: Apache-2.0
"""A server to throw hostile requests at, in network, mount and host name namespaces of its own, and the judge of its answers.

`Target.fault` says what is wrong with the answer to one attempt; `Target.left` what the server keeps that it must not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from oakum.api.cri._proto import cri_pb2 as pb
from tests.support.cri import CriClient, container_config, pod_config
from tests.support.cri_fuzz import METHODS, Attempt, World, encoded, places
from tests.support.daemons import Daemon
from tests.support.images import build_image, busybox_layer
from tests.support.installations import end_installation
from tests.support.leaks import cgroup_mounts, remove_cgroups
from tests.support.patience import eventually
from tests.support.server import OAKUM

CODE = grpc.StatusCode
_ALWAYS = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND, CODE.FAILED_PRECONDITION, CODE.ALREADY_EXISTS}
# a registry without images; a host without CRIU; limits of the server and of the machine
_SOMETIMES = {
    "PullImage": {CODE.UNAVAILABLE},
    "CheckpointContainer": {CODE.UNIMPLEMENTED},
    "CheckpointPod": {CODE.UNIMPLEMENTED},
    "RestorePod": {CODE.UNIMPLEMENTED, CODE.PERMISSION_DENIED, CODE.DATA_LOSS},
    "ExecSync": {CODE.DEADLINE_EXCEEDED},
    "RunPodSandbox": {CODE.RESOURCE_EXHAUSTED, CODE.PERMISSION_DENIED, CODE.UNIMPLEMENTED},
    "CreateContainer": {CODE.PERMISSION_DENIED, CODE.UNIMPLEMENTED},
    "StartContainer": {CODE.PERMISSION_DENIED, CODE.UNIMPLEMENTED, CODE.RESOURCE_EXHAUSTED},
    "UpdateContainerResources": {CODE.PERMISSION_DENIED, CODE.UNIMPLEMENTED, CODE.RESOURCE_EXHAUSTED},
    "UpdatePodSandboxResources": {CODE.PERMISSION_DENIED, CODE.UNIMPLEMENTED, CODE.RESOURCE_EXHAUSTED},
}
# RPCs after which an object that others count on may be another
_CHANGES = ("Stop", "Remove", "Start", "Update", "Exec", "Checkpoint")
_DEADLINE_S = 60.0
# no process of it comes or goes while it runs
_ANSWERS_TO_TERM = "trap 'exit 0' TERM; sleep 9999 & wait"


class Target:
    """The server with its objects; a context manager."""

    def __init__(self, root: str, state: str, directory: Path, layout: Path, image: str) -> None:
        self.root, self.state = root, state
        self.layout = layout
        self.directory = directory
        self.world = World(f"{directory}/host", f"/oakum-fuzz-{os.getpid()}", image)
        self.codes: Counter[tuple[str, str]] = Counter()
        self.ids: dict[str, str] = {}
        self.left_over: list[str] = ["the server died"]
        self.socket = f"{directory}/s"

    def __enter__(self) -> Self:
        directory = self.directory
        host = Path(self.world.directory)
        host.mkdir()
        (host / "file").write_text("file\n")
        (host / "loop").symlink_to("loop")
        os.mkfifo(host / "fifo")
        self._import()
        argv = [
            OAKUM,
            "--root",
            self.root,
            "--state",
            self.state,
            "serve",
            "--cri-listen",
            f"unix://{self.socket}",
        ]
        registry = f"busybox httpd -f -p 127.0.0.1:1 -h {directory} & echo $! >{directory}/registry"
        inside = ["sh", "-c", f'ip link set lo up; {registry}; exec "$@"', "sh", *argv]
        self.daemon = Daemon(
            "oakum serve",
            ["unshare", "--net", "--mount", "--uts", "--propagation", "slave", *inside],
            f"{self.directory}/serve.log",
            env={"NOTIFY_SOCKET": ""},
        )
        self.client = CriClient(self.socket)
        self.daemon.wait_until(self._answers)
        self.methods: dict[str, Callable[..., Any]] = {name: self._method(name) for name in METHODS}
        self._build()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.daemon.process.poll() is None:
                self.left_over = self.left()
        finally:
            self.client.close()
            self.daemon.stop()
            os.kill(int(Path(self.directory, "registry").read_text()), signal.SIGKILL)
            end_installation(self.root, self.state)
            remove_cgroups(self.world.cgroup)
            remove_cgroups(f"{self.world.cgroup}.slice")

    def _import(self) -> None:
        argv = [OAKUM, "--root", self.root, "--state", self.state, "--namespace", "k8s.io", "image", "import"]
        subprocess.run([*argv, str(self.layout)], check=True, capture_output=True)

    def _answers(self) -> bool:
        try:
            self.client.runtime.Version(pb.VersionRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True

    def _method(self, name: str) -> Callable[..., Any]:
        method = METHODS[name]
        make = (
            self.client.channel.unary_stream if method.server_streaming else self.client.channel.unary_unary
        )
        answer = GetMessageClass(method.output_type)
        path = f"/{method.containing_service.full_name}/{name}"
        return cast("Callable[..., Any]", make(path, None, answer.FromString))

    # ---- objects that requests can name

    def _sandbox(self) -> pb.PodSandboxConfig:
        name = uuid.uuid4().hex
        config = pod_config(name, f"{self.world.directory}/logs/{name}")
        config.linux.cgroup_parent = f"{self.world.cgroup}/{name}"
        config.linux.security_context.namespace_options.network = pb.NODE
        return config

    def _container(self, script: str = "exit 0") -> pb.ContainerConfig:
        config = container_config(uuid.uuid4().hex, self.world.image, "sh", "-c", script)
        config.log_path = "c.log"
        config.linux.security_context.namespace_options.network = pb.NODE
        mount = config.mounts.add()
        mount.host_path, mount.container_path = f"{self.world.directory}/file", "/data"
        return config

    def _build(self) -> None:
        client = self.client
        self.ids["pod"] = pod = client.run_pod(self._sandbox())
        self.ids["stopped_pod"] = client.run_pod(self._sandbox())
        client.stop_pod(self.ids["stopped_pod"])
        for name, script in (("running", _ANSWERS_TO_TERM), ("created", "exit 0"), ("exited", "exit 3")):
            self.ids[name] = client.create(pod, self._container(script))
            if name != "created":
                client.start(self.ids[name])
        eventually(lambda: client.status(self.ids["exited"]).status.state == pb.CONTAINER_EXITED)

    def mend(self) -> None:
        """Have the objects and the image there that later requests are to find."""
        wanted = {
            "running": pb.CONTAINER_RUNNING,
            "created": pb.CONTAINER_CREATED,
            "exited": pb.CONTAINER_EXITED,
        }
        found = {c.id: c.state for c in self.client.containers()}
        pods = {p.id: p.state for p in self.client.pods()}
        if (
            any(found.get(self.ids[name]) != state for name, state in wanted.items())
            or pods.get(self.ids["pod"]) != pb.SANDBOX_READY
            or self.ids["stopped_pod"] not in pods
        ):
            self.clear()
            self._build()
        image = pb.ImageStatusRequest(image=pb.ImageSpec(image=self.world.image))
        if not self.client.images.ImageStatus(image, timeout=30).HasField("image"):
            self._import()

    def clear(self) -> None:
        """Remove all pods."""
        for sandbox in self.client.pods():
            self.client.remove_pod(sandbox.id)

    def base(self, rpc: str) -> Message:
        """A request that the server would grant (or whose object is gone, where granting costs an object)."""
        request: Any = GetMessageClass(METHODS[rpc].input_type)()
        fields = {field.name for field in METHODS[rpc].input_type.fields}
        if "pod_sandbox_id" in fields:
            request.pod_sandbox_id = "0" * 64 if rpc.startswith(("Stop", "Remove")) else self.ids["pod"]
        if "container_id" in fields:
            request.container_id = (
                "0" * 64 if rpc.startswith(("Stop", "Remove", "Start")) else self.ids["running"]
            )
        if rpc == "CheckpointContainer":
            request.location = f"{self.world.directory}/checkpoint.tar"
        if rpc == "CheckpointPod":
            request.output_path = f"{self.world.directory}/checkpoint"
        if "cmd" in fields:
            request.cmd.extend(["true"])
        if "stdout" in fields:
            request.stdout = True
        if rpc in ("RunPodSandbox", "RestorePod"):
            request.config.CopyFrom(self._sandbox())
        if rpc == "CreateContainer":
            request.config.CopyFrom(self._container())
        if rpc in ("ImageStatus", "PullImage", "RemoveImage"):
            request.image.image = "127.0.0.1:1/none:latest" if rpc != "ImageStatus" else self.world.image
        if rpc == "UpdateContainerResources":
            request.linux.cpu_shares = 512
        return request

    # ---- one attempt

    def fault(self, attempt: Attempt) -> str:
        """Send it and tell what is wrong with what came of it; "" when all is right."""
        request = encoded(attempt, self.base(attempt.rpc), self.ids)
        code, text, answer = self._call(attempt.rpc, request)
        found = self._judge(attempt.rpc, code, text) or self._follow(attempt.rpc, answer)
        if code is CODE.OK and attempt.rpc.startswith(_CHANGES):
            self.mend()
        return found

    def _call(self, rpc: str, request: bytes) -> tuple[grpc.StatusCode, str, Any]:
        try:
            answer = self.methods[rpc](request, timeout=_DEADLINE_S)
            if rpc == "GetContainerEvents":
                answer.initial_metadata()
                answer.cancel()
            elif METHODS[rpc].server_streaming:
                answer = list(answer)
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            code, text = failed.code(), failed.details() or ""
            self.codes[rpc, code.name] += 1
            return code, text, None
        self.codes[rpc, "OK"] += 1
        return CODE.OK, "", answer

    def _judge(self, rpc: str, code: grpc.StatusCode, text: str) -> str:
        if code is CODE.RESOURCE_EXHAUSTED and "larger than max" in text:
            return ""  # gRPC's own word on what is too much for any field
        if code not in _ALWAYS | _SOMETIMES.get(rpc, set()):
            return f"{rpc} ended with {code.name}: {text}"
        if code is CODE.INVALID_ARGUMENT:
            # what cannot be decoded at all is told by the request's own name
            names = {place.field.name for place in places(rpc)} | {METHODS[rpc].input_type.name}
            if not any(_said(name, text) for name in names):
                return f"{rpc}: the refusal names no field: {text}"
        elif code is not CODE.OK and len(text) < 10:
            return f"{rpc} ended with {code.name} and no reason: {text!r}"
        return ""

    def _follow(self, rpc: str, answer: Any) -> str:
        """Go on with what was granted, and take it away again."""
        if answer is None:
            return ""
        if rpc == "RunPodSandbox":
            self.client.remove_pod(answer.pod_sandbox_id)
        if rpc == "CreateContainer":
            started = pb.StartContainerRequest(container_id=answer.container_id).SerializeToString()
            code, text, _ = self._call("StartContainer", started)
            fault = (
                self._judge("CreateContainer", code, text) if code not in _SOMETIMES["StartContainer"] else ""
            )
            self.client.status(answer.container_id, verbose=True)
            self.client.remove(answer.container_id)
            return f"start after {fault}" if fault else ""
        return ""

    # ---- afterwards

    def left(self) -> list[str]:
        """What is still there when every pod has been removed."""
        self.clear()
        found = [f"container {c.id}" for c in self.client.containers()]
        for where in (
            f"{self.state}/pods",
            f"{self.root}/containers",
            f"{self.root}/sandboxes",
            f"{self.root}/snapshots/containers",
        ):
            if os.path.isdir(where):
                found += [f"{where}/{name}" for name in os.listdir(where)]
        with open(f"/proc/{self.daemon.pid}/mountinfo", encoding="utf-8") as file:
            found += [
                f"mount {line.split()[4]}"
                for line in file
                if f" {self.state}" in line or f" {self.root}/" in line
            ]
        for top in cgroup_mounts():
            for name in (f"{top}{self.world.cgroup}", f"{top}{self.world.cgroup}.slice"):
                for directory, _, files in os.walk(name):
                    if "cgroup.procs" in files and Path(directory, "cgroup.procs").read_text().strip():
                        found.append(f"processes in {directory}")
        log = Path(self.daemon.log_path).read_text(errors="replace")
        found += [line for line in log.splitlines() if "failed by a bug" in line or "Traceback" in line]
        return found

    def resources(self) -> tuple[int, int]:
        """Descriptors and threads of the server."""
        process = f"/proc/{self.daemon.pid}"
        return len(os.listdir(f"{process}/fd")), len(os.listdir(f"{process}/task"))


def _said(name: str, text: str) -> bool:
    """Whether a message names a field, as itself or in words: "log path", "sysctl" for one of `sysctls`."""
    return any(form in text for form in (name, name.replace("_", " "), name.removesuffix("s")))


def busybox_layout(directory: Path, name: str) -> Path:
    """An OCI layout that `oakum image import` takes, with a busybox called `name`."""
    image = build_image([busybox_layer()], {"Cmd": ["sh"]}, media="oci")
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    for blob in (image.manifest, image.config, *image.layers):
        (blobs / blob.digest.removeprefix("sha256:")).write_bytes(blob.data)
    named = {**image.manifest.descriptor, "annotations": {"io.containerd.image.name": name}}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return directory
