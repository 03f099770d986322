# SPDX-License-Identifier: Apache-2.0
"""A real kubelet on oakum: static pods, by its defaults and by every feature gate that asks the runtime for more.

Run by hand: `OAKUM_KUBELET=/path/to/kubelet scripts/test tests/kernel/kubelet_cases.py`; Debian has no kubelet.
It runs alone, without an API server, in a cgroup of the test's own. What it would set in /proc/sys it finds set.
"""

from __future__ import annotations

import json
import os
import shlex
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from tests.conftest import make_directories
from tests.support.daemons import Daemon
from tests.support.images import busybox_layer
from tests.support.leaks import cgroup_mounts, remove_cgroups
from tests.support.patience import eventually, patient
from tests.support.ports import free_port
from tests.support.reaper import unmount_below
from tests.support.registry import Registry
from tests.support.server import OakumServer

KUBELET = os.environ.get("OAKUM_KUBELET", "kubelet")
GATES = {
    "defaults": {},
    "asking for more": dict.fromkeys(
        ("CRIListStreaming", "EventedPLEG", "PodAndContainerStatsFromCRI", "ContainerStopSignals"), True
    ),
}
# what a kubelet wants of the kernel, and would write
SYSCTLS = {"vm/overcommit_memory": 1, "kernel/panic": 10, "kernel/panic_on_oops": 1}


class Kubelet:
    """A kubelet on a server of ours; `pods` is what it says of them."""

    def __init__(self, directory: Path, server: OakumServer, gates: dict[str, bool]) -> None:
        self.directory = directory
        self.server = server
        self.group = f"/oakum-kubelet-{os.getpid()}"
        self.port, self._read_port = free_port(), free_port()
        self.manifests = directory / "manifests"
        for name in ("manifests", "logs", "kubelet", "plugins"):
            (directory / name).mkdir()
        self._config = directory / "kubelet.yaml"
        self._config.write_text(json.dumps(self._configuration(gates)))
        self._daemon: Daemon | None = None

    def _configuration(self, gates: dict[str, bool]) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": self.port,
            "readOnlyPort": self._read_port,
            "healthzPort": 0,
            "staticPodPath": str(self.manifests),
            "podLogsDir": str(self.directory / "logs"),
            "volumePluginDir": str(self.directory / "plugins"),
            "containerRuntimeEndpoint": self.server.endpoint,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.group,
            "failSwapOn": False,
            "failCgroupV1": False,
            "makeIPTablesUtilChains": False,
            "fileCheckFrequency": "1s",
            "containerLogMaxSize": "256Ki",
            "containerLogMaxFiles": 3,
            "containerLogMonitorInterval": "3s",
            "evictionHard": {"memory.available": "50Mi"},
            "featureGates": gates,
        }

    def start(self) -> None:
        steps = ["mount --make-rprivate /proc"]
        for name, value in SYSCTLS.items():
            wanted = self.directory / name.replace("/", "-")
            wanted.write_text(f"{value}\n")
            steps.append(f"mount --bind {wanted} /proc/sys/{name}")
        command = [KUBELET, "--config", str(self._config), "--root-dir", str(self.directory / "kubelet")]
        steps.append(f"exec {shlex.join(command)} --hostname-override node")
        argv = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", "; ".join(steps)]
        self._daemon = Daemon("kubelet", argv, str(self.directory / "kubelet.log"))
        self._daemon.wait_until(self._healthy, timeout_s=60)

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    def _healthy(self) -> bool:
        try:
            self._listed()
            return self.get("/healthz") == "ok"
        except OSError:
            return False

    def _listed(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self._read_port}/pods", timeout=patient(20)
        ) as answer:
            return json.load(answer)["items"] or []

    def get(self, path: str, *, method: str = "GET") -> str:
        """What it answers at a path."""
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", method=method)
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, context=context, timeout=patient(20)) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def run(self, name: str, spec: dict[str, Any]) -> None:
        """Have it run a pod."""
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"terminationGracePeriodSeconds": 2, **spec},
        }
        draft = self.directory / "draft"
        draft.write_text(json.dumps(manifest))
        draft.rename(self.manifests / f"{name}.json")

    def pod(self, name: str) -> dict[str, Any]:
        """What it says of a pod, {} if it knows none of that name."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self._read_port}/pods", timeout=patient(20)
        ) as answer:
            items = json.load(answer)["items"] or []
        return next((item for item in items if item["metadata"]["name"] == f"{name}-node"), {})

    def containers(self, name: str) -> dict[str, dict[str, Any]]:
        """The states of a pod's containers by their names."""
        status = self.pod(name).get("status", {})
        found = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return {container["name"]: container for container in found}

    def wait_ready(self, name: str) -> dict[str, Any]:
        """Wait until all of its containers are ready; the pod."""
        eventually(
            lambda: (found := self.containers(name)) and all(c["ready"] for c in found.values()),
            f"{name} is ready: {self.containers(name)}",
            timeout_s=60,
        )
        return self.pod(name)


@contextmanager
def running(directory: Path, gates: dict[str, bool]) -> Iterator[Kubelet]:
    """A kubelet, its server and its cgroup."""
    with OakumServer(*make_directories(directory), str(directory / "s")) as server:
        made = Kubelet(directory, server, gates)
        for top in cgroup_mounts():
            group = Path(top + made.group)
            group.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (group / file).exists() and not (group / "cgroup.controllers").exists():
                    (group / file).write_text((group.parent / file).read_text())
        try:
            made.start()
            yield made
            end_pods(made)
        finally:
            made.stop()
            remove_cgroups(made.group)


def end_pods(kubelet: Kubelet) -> None:
    for manifest in kubelet.manifests.iterdir():
        manifest.unlink()
    with kubelet.server.client() as client:
        ready = pb.PodSandboxState.SANDBOX_READY
        eventually(lambda: all(pod.state != ready for pod in client.pods()), "its pods end", timeout_s=90)
        # volumes go before the sandbox; to remove that is the garbage collector's, which takes minutes
        eventually(lambda: not list(kubelet.directory.glob("kubelet/pods/*/volumes")), timeout_s=90)
        for pod in client.pods():
            client.remove_pod(pod.id)


@pytest.fixture(params=GATES, ids=lambda name: name.replace(" ", "-"))
def kubelet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubelet]:
    # volumes that the kubelet mounts in its own mount namespace are to be seen by the server
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    subprocess.run(["mount", "--make-rshared", tmp_path], check=True)
    try:
        with running(tmp_path, GATES[request.param]) as made:
            yield made
    finally:
        unmount_below(str(tmp_path))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Registry(tmp_path_factory.mktemp("reg")) as registry:
        registry.push_image("busybox", "1", [busybox_layer()])
        yield f"{registry.address}/busybox:1"


def shell(image: str, name: str, script: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": image, "command": ["sh", "-c", script], **fields}


def test_a_pod_with_probes_hooks_a_sidecar_and_volumes(kubelet: Kubelet, image: str) -> None:
    data = {"name": "data", "mountPath": "/data"}
    wait = "trap 'exit 0' TERM; while true; do sleep 0.2; done"
    kubelet.run(
        "web",
        {
            "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000]},
            "initContainers": [
                shell(image, "before", "echo from init > /data/index.html", volumeMounts=[data]),
                shell(image, "beside", wait, restartPolicy="Always"),
            ],
            "containers": [
                {
                    "name": "httpd",
                    "image": image,
                    "command": ["httpd", "-f", "-p", "8080", "-h", "/data"],
                    "livenessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "timeoutSeconds": 20},
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                    "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}},
                    "volumeMounts": [{**data, "readOnly": True, "recursiveReadOnly": "IfPossible"}],
                    "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                },
                shell(
                    image,
                    "talk",
                    f"echo I am $ME; {wait}",
                    env=[{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    lifecycle={"postStart": {"exec": {"command": ["touch", "/tmp/hooked"]}}},
                    readinessProbe={"exec": {"command": ["ls", "/tmp/hooked"]}, "timeoutSeconds": 20},
                ),
            ],
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        },
    )
    pod = kubelet.wait_ready("web")
    address = pod["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:8080/index.html", timeout=patient(5)) as answer:
        assert answer.read() == b"from init\n"
    assert kubelet.get("/containerLogs/default/web-node/talk") == f"I am {address}\n"
    assert "uid=1000 gid=0(root) groups=0(root),2000,3000" in kubelet.get(
        "/run/default/web-node/httpd?cmd=id", method="POST"
    )
    assert kubelet.containers("web")["before"]["state"]["terminated"]["reason"] == "Completed"


def test_a_pod_of_every_namespace_mode(kubelet: Kubelet, image: str) -> None:
    kubelet.run(
        "users", {"hostUsers": False, "containers": [shell(image, "c", "cat /proc/self/uid_map; sleep 1d")]}
    )
    shared = [shell(image, "a", "sleep 1d"), shell(image, "b", "ps; sleep 1d")]
    kubelet.run("shared", {"shareProcessNamespace": True, "hostname": "named", "containers": shared})
    kubelet.run("host", {"hostNetwork": True, "hostPID": True, "containers": [shell(image, "c", "sleep 1d")]})
    for name in ("users", "shared", "host"):
        kubelet.wait_ready(name)
    first_id, host_id, length = kubelet.get("/containerLogs/default/users-node/c").split()
    assert (first_id, length) == ("0", "65536")
    assert int(host_id) >= 65536
    eventually(lambda: "sleep 1d" in kubelet.get("/containerLogs/default/shared-node/b"))


def test_what_fails_is_restarted_and_says_why(kubelet: Kubelet, image: str) -> None:
    eater = shell(
        image, "eater", "a=x; while true; do a=$a$a; done", resources={"limits": {"memory": "16Mi"}}
    )
    kubelet.run(
        "crash",
        {
            "restartPolicy": "OnFailure",
            "containers": [shell(image, "c", "echo reason > /dev/termination-log; exit 3"), eater],
        },
    )

    def ends() -> dict[str, dict[str, Any]]:
        found = kubelet.containers("crash").items()
        return {name: c["lastState"]["terminated"] for name, c in found if "terminated" in c["lastState"]}

    eventually(lambda: len(ends()) == 2, "both were restarted", timeout_s=90)
    assert (ends()["c"]["exitCode"], ends()["c"]["message"]) == (3, "reason\n")
    assert (ends()["eater"]["exitCode"], ends()["eater"]["reason"]) == (137, "OOMKilled")


def test_statistics_and_metrics_name_every_container(kubelet: Kubelet, image: str) -> None:
    kubelet.run("counted", {"containers": [shell(image, "c", "while true; do :; done")]})
    kubelet.wait_ready("counted")

    def counted() -> dict[str, Any]:
        pods = json.loads(kubelet.get("/stats/summary"))["pods"]
        return next((pod for pod in pods if pod["podRef"]["name"] == "counted-node"), {})

    eventually(lambda: (c := counted().get("containers")) and c[0]["cpu"].get("usageNanoCores"), timeout_s=60)
    assert counted()["containers"][0]["rootfs"]["capacityBytes"] > 0
    eventually(
        lambda: (
            'container_memory_working_set_bytes{container="c",namespace="default",pod="counted-node"}'
            in kubelet.get("/metrics/resource")
        ),
        timeout_s=60,
    )
    if "PodAndContainerStatsFromCRI" in json.loads(kubelet._config.read_text())["featureGates"]:
        assert counted()["network"]["name"] == "eth0"
        lines = kubelet.get("/metrics/cadvisor").splitlines()
        (line,) = (x for x in lines if x.startswith("container_threads{") and 'pod="counted-node"' in x)
        assert f'image="{image}"' in line


def test_no_line_is_lost_while_logs_turn_and_the_server_is_killed(kubelet: Kubelet, image: str) -> None:
    line = "x" * 200
    turn = f"i=$((i+1)); echo $i {line}; [ $((i % 100)) = 0 ] && sleep 0.1"
    script = f"i=0; until [ -e /enough ]; do {turn}; done; echo $i; sleep 1d"
    kubelet.run("chatty", {"containers": [shell(image, "c", script)]})
    kubelet.wait_ready("chatty")

    def files() -> list[Path]:
        return sorted(
            kubelet.directory.glob("logs/default_chatty-node_*/c/0.log*"), key=lambda f: f.stat().st_mtime
        )

    eventually(lambda: len(files()) >= 2, "the log turned", timeout_s=60)
    assert kubelet.server.daemon is not None
    kubelet.server.daemon.process.kill()
    kubelet.server.daemon.process.wait()
    kubelet.server.start()
    turned = files()
    eventually(lambda: files()[0] not in turned, "the log turned again", timeout_s=90)
    kubelet.get("/run/default/chatty-node/c?cmd=touch%20/enough", method="POST")

    def settled() -> bool:
        # one that grew too large just before is turned, packed and named anew for seconds
        before = files()
        time.sleep(patient(4))
        return files() == before and all(file.suffix != ".tmp" for file in before)

    eventually(settled, timeout_s=60)
    written = subprocess.run(["zcat", "-f", *files()], check=True, capture_output=True, text=True).stdout
    *numbers, last = sorted(int(text.split(" ")[3]) for text in written.splitlines())
    assert numbers == list(range(last + 1 - len(numbers), last + 1))
