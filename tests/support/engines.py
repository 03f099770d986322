# SPDX-License-Identifier: Apache-2.0
"""An engine of a test's own with images to run, and short words for making pods. Everything goes with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    SandboxConfig,
    SandboxMetadata,
)
from oakum.engine.engine import Engine
from oakum.engine.namespace import Namespace
from tests.support.patience import patient
from tests.support.registry import Registry, busybox_layer, make_layer, tar_entry

_numbers = count()
# Ends at once and with code 0 when it is told to. Before anything by which a test knows that it may tell: a first
# process without a handler does not get the signal at all.
HEED = "trap 'exit 0' TERM INT"
# Sleeps until then.
SLEEP = f"{HEED}; while :; do sleep 0.05; done"


class Lab(NamedTuple):
    """An engine, its CRI namespace, the registry that its images are from, and a directory for logs."""

    engine: Engine
    cri: Namespace
    registry: Registry
    logs: str

    def image(self, name: str) -> str:
        """The full name of one of the images: "busybox", "volumes", "user"."""
        return f"{self.registry.address}/library/{name}:latest"

    def sandbox(self, name: str, **fields: Any) -> SandboxConfig:
        """A pod's configuration; nothing else has its uid."""
        metadata = SandboxMetadata(name=name, namespace="tests", uid=name)
        return SandboxConfig(metadata=metadata, **{"log_directory": f"{self.logs}/{name}", **fields})

    def container(self, name: str, script: str = SLEEP, **fields: Any) -> ContainerConfig:
        """A container that runs a shell script."""
        config = {"image": self.image("busybox"), "command": ("sh", "-c", script), "log_path": f"{name}.log"}
        return ContainerConfig(metadata=ContainerMetadata(name=name), **{**config, **fields})

    @contextmanager
    def pod(self, name: str, *, handler: str = "", **fields: Any) -> Iterator[str]:
        """A pod that is removed in the end."""
        sandbox_id = self.cri.run_sandbox(self.sandbox(name, **fields), runtime_handler=handler)
        try:
            yield sandbox_id
        finally:
            self.cri.remove_sandbox(sandbox_id)

    def started(self, sandbox_id: str, name: str = "c", script: str = SLEEP, **fields: Any) -> str:
        """A container of the pod that runs."""
        container_id = self.cri.create_container(sandbox_id, self.container(name, script, **fields))
        self.cri.start_container(container_id)
        return container_id

    def output(
        self, script: str, name: str = "once", pod: dict[str, Any] | None = None, **fields: Any
    ) -> str:
        """What a script prints in a container of its own pod, seen through its log."""
        with self.pod(f"once-{next(_numbers)}", **(pod or {})) as sandbox_id:
            container_id = self.started(sandbox_id, "c", script, **fields)
            self.cri.wait(container_id, timeout_s=patient(20))
            return "".join(line.data.decode() + "\n" for line in self.cri.logs(container_id))

    def run(self, container_id: str, *argv: str, timeout_s: float = 20) -> str:
        """What a command prints in a running container."""
        result = self.cri.exec_sync(container_id, argv, timeout_s=patient(timeout_s))
        assert result.exit_code == 0, result
        return result.stdout.decode()


@contextmanager
def laboratory(
    root: str, state: str, directory: Path, runtimes: Mapping[str, str] | None = None
) -> Iterator[Lab]:
    """An engine that has pulled its images and run a pod once, so that what it keeps open is open."""
    engine = Engine(root, state, runtimes=runtimes)
    with Registry(directory) as registry:
        _push_images(registry)
        lab = Lab(engine, engine.namespace("k8s.io"), registry, str(directory / "logs"))
        try:
            for name in ("busybox", "volumes", "user"):
                lab.cri.pull_image(lab.image(name))
            with lab.pod("warm") as sandbox_id:
                lab.run(lab.started(sandbox_id), "true")
                lab.cri.list_sandbox_stats()
            yield lab
        finally:
            clear(engine)
            engine.close()


def _push_images(registry: Registry) -> None:
    base = busybox_layer()
    registry.push_image("library/busybox", "latest", [base], {"Cmd": ["sh"]})
    data = make_layer(
        [
            tar_entry("data", "d", mode=0o750, uid=7, gid=8),
            tar_entry("data/seed", payload=b"from the image\n", mode=0o640, uid=7, gid=8),
            tar_entry("outside", "l", "/etc"),
        ]
    )
    volumes = {"/data": {}, "/outside/../../etc/made": {}, "/empty": {}}
    registry.push_image("library/volumes", "latest", [base, data], {"Cmd": ["sh"], "Volumes": volumes})
    user = {
        "User": "app:staff",
        "WorkingDir": "/made/for/it",
        "Env": ["GREETING=hello"],
        "StopSignal": "SIGUSR1",
    }
    people = make_layer(
        [
            tar_entry(
                "etc/passwd",
                payload=b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
                mode=0o644,
            ),
            tar_entry("etc/group", payload=b"root:x:0:\nstaff:x:50:\nextra:x:77:app\n", mode=0o644),
        ]
    )
    registry.push_image("library/user", "latest", [base, people], {"Cmd": ["id"], **user})


def clear(engine: Engine) -> None:
    """Remove every sandbox, and the bridge."""
    for name in engine.namespaces():
        namespace = engine.namespace(name)
        for sandbox in namespace.list_sandboxes():
            namespace.remove_sandbox(sandbox.id)
    engine.recover_fully()
    engine._context.network.remove_network()


def together(number_of: int, call: Callable[[int], object]) -> list[object]:
    """What `number_of` threads that call at once get, errors included, in the order of the threads."""
    found: list[object] = [None] * number_of
    gate = threading.Barrier(number_of)

    def one(number: int) -> None:
        gate.wait()
        try:
            found[number] = call(number)
        except Exception as error:  # noqa: BLE001 - what a call raises is its outcome here
            found[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(number_of)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
