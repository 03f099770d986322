# SPDX-License-Identifier: Apache-2.0
"""The main job, visibly: a pod from a real registry, started through the CRI socket, that outlives its server.

`make demo` runs it. Everything lies in one temporary directory, and everything is gone at the end, also after a
failure or Ctrl-C. Ends with 0 when every check on the way held.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import leftovers
import show
from kubelet import Kubelet, Pod, read_manifest
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from workshop import DemoFailed, Registry, build_image, end_process, start_process, wait_until

from oakum.cli.text import human_memory, human_size
from oakum.errors import OakumError

HERE = Path(__file__).resolve().parent
PORT = 8080


class Story:
    """The demo's steps, and what they share."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.root, self.state = directory / "root", directory / "run"
        self.socket, self.logs = directory / "cri.sock", directory / "logs"
        self.stack = stack
        self.server: subprocess.Popen[bytes] | None = None
        self.kubelet = Kubelet(self.socket, self.logs)
        self.image = ""
        self.image_bytes = 0
        self.links: set[str] = set()
        self.failed: list[str] = []

    # small things

    def check(self, holds: bool, text: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Say whether something holds; the demo fails at its end if not."""
        if holds:
            show.good(text)
        else:
            show.bad(text)
            self.failed.append(text)

    def oakum(self, *arguments: str, workshop: bool = False, shown: str = "") -> str:
        """Run an oakum command and show it; what it wrote."""
        root, state = (
            (self.directory / "workshop", self.directory / "workshop-run")
            if workshop
            else (self.root, self.state)
        )
        line = ["--root", str(root), "--state", str(state), *arguments]
        show.command("oakum " + (shown or " ".join(arguments)))
        done = subprocess.run(
            [sys.executable, "-m", "oakum.cli.main", *line],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"oakum {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
        return done.stdout

    def http(self, path: str) -> str:
        """What the pod's web server says."""
        with urllib.request.urlopen(f"http://{self.pod_address}:{PORT}{path}", timeout=5) as answer:
            return answer.read(200).decode(errors="replace")

    def start_server(self) -> float:
        """Start `oakum serve`; seconds until it answers."""
        began = time.monotonic()
        self.server = start_process(
            [
                *[
                    sys.executable,
                    "-m",
                    "oakum.cli.main",
                    "--root",
                    str(self.root),
                    "--state",
                    str(self.state),
                ],
                *["serve", "--cri-listen", f"unix://{self.socket}"],
            ],
            self.directory / "server.log",
        )
        wait_until(
            lambda: self.kubelet.version() is not None,
            "the server does not answer",
            self.directory / "server.log",
        )
        return time.monotonic() - began

    def ticks(self) -> int:
        """How many lines the ticker has logged."""
        path = self.logs / "ticker" / "0.log"
        return path.read_text(errors="replace").count("\n") if path.exists() else 0

    # the story

    def registry(self) -> None:
        """A real registry with an image made here."""
        show.heading("A registry", "Debian's docker-registry, with an image made of this machine's busybox.")
        registry = self.stack.enter_context(Registry(self.directory))
        self.registry_address = registry.address
        self.image = f"{registry.address}/oakum/demo:1"
        archive, self.image_bytes = build_image(self.directory, self.image)
        show.fact("registry", f"http://{registry.address} (process {registry.pid})")
        show.fact("image", f"{self.image}, 2 layers, {human_size(self.image_bytes)}")
        show.output(
            self.oakum("image", "import", str(archive), workshop=True, shown="image import demo-image.tar")
        )
        show.output(self.oakum("image", "push", "-q", self.image, workshop=True))
        with urllib.request.urlopen(
            f"http://{registry.address}/v2/oakum/demo/tags/list", timeout=5
        ) as answer:
            self.check(b'"1"' in answer.read(), "the registry has it")

    def serve(self) -> None:
        """The server that a kubelet talks to."""
        show.heading(
            "A server",
            "What a kubelet talks to: CRI v1 over a unix socket. No containerd, no runc, no CNI plugins.",
        )
        show.command(f"oakum --root {self.root} --state {self.state} serve --cri-listen unix://{self.socket}")
        took = self.start_server()
        assert self.server is not None
        version = self.kubelet.version()
        assert version is not None
        show.fact("process", self.server.pid)
        show.fact(
            "answers", f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}"
        )
        show.fact("ready after", f"{took * 1000:.0f} ms")

    def pull(self) -> None:
        """The image, through CRI."""
        show.heading("A pull", "ImageService.PullImage: fetched, checked and unpacked in one pass.")
        content = self.root / "content"
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            DownloadColumn(),
            TimeElapsedColumn(),
        )
        began = time.monotonic()
        with Progress(*columns, console=show.console, disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("PullImage", total=self.image_bytes)
            reference = self.kubelet.pull(
                self.image, lambda: bar.update(task, completed=min(_size_below(content), self.image_bytes))
            )
            bar.update(task, completed=self.image_bytes)
        took = time.monotonic() - began
        show.fact("reference", reference)
        show.fact("took", f"{took:.2f} s for {human_size(self.image_bytes)}")
        show.output(self.oakum("-n", "k8s.io", "image", "ls"))
        self.check(self.image in self.kubelet.image_names(), "CRI lists it")

    def run_pod(self) -> Pod:
        """Two containers from a manifest."""
        show.heading("A pod", "demo/pod.yaml, a Kubernetes manifest: a web server and a ticker that asks it.")
        manifest = read_manifest(HERE / "pod.yaml", {"REGISTRY": self.registry_address})
        for container in manifest["spec"]["containers"]:
            limits = container.get("resources", {}).get("limits", {})
            show.fact(container["name"], f"{container['command'][0]} ... limits {limits}")
        began = time.monotonic()
        pod = self.kubelet.run(manifest)
        took = time.monotonic() - began
        self.pod_address = self.kubelet.address(pod.id)
        self.links = leftovers.links(self.root)
        self.check(
            len(self.links) == 2, f"the kernel has a bridge and a link: {', '.join(sorted(self.links))}"
        )
        show.table(["CRI call", "ms"], [(name, f"{ms:.1f}") for name, ms in pod.steps], right=["ms"])
        show.fact("all of it", f"{took * 1000:.0f} ms")
        show.output(self.oakum("-n", "k8s.io", "pod", "ls"))
        show.output(self.oakum("-n", "k8s.io", "ps"))
        return pod

    def look(self, pod: Pod) -> None:
        """Address, logs, exec, statistics."""
        show.heading(
            "Its address", "A veth pair on a bridge of ours; addresses and rules by netlink and nftables."
        )
        wait_until(self._web_answers, "the web server does not answer")
        show.command(f"curl http://{self.pod_address}:{PORT}/hello")
        hello = self.http("/hello")
        show.output(hello)
        self.check(hello.startswith("hello from a pod"), "the page of the image's second layer")

        show.heading("Its logs", "Files in CRI's format, written by the pod's shim, not by the server.")
        wait_until(lambda: self.ticks() >= 3, "the ticker does not tick")
        log = self.logs / "ticker" / "0.log"
        show.command(f"head -2 {log}")
        show.output("\n".join(log.read_text().splitlines()[:2]))
        show.output(self.oakum("-n", "k8s.io", "logs", "--tail", "2", pod.containers["ticker"][:12]))

        show.heading("An exec", "RuntimeService.ExecSync into the web container.")
        code, text = self.kubelet.execute(
            pod.containers["web"],
            "/bin/sh",
            "-c",
            "id; hostname; ps | head -4; ip -4 -o addr show eth0; exit 3",
        )
        show.output(text)
        self.check(code == 3, f"its exit code is kept: {code}")
        self.check("harbour" in text and self.pod_address in text, "it sees the pod's name and address")

    def statistics(self, pod: Pod) -> None:
        """What it uses."""
        show.heading("Its statistics", "RuntimeService.PodSandboxStats: straight from the control groups.")
        before = self.kubelet.statistics(pod.id)
        for _ in range(20):
            self.http("/ballast")
        time.sleep(1.0)
        after = self.kubelet.statistics(pod.id)
        earlier = {c.attributes.id: c for c in before.linux.containers}
        rows = [_stats_row(c, earlier.get(c.attributes.id)) for c in after.linux.containers]
        show.table(
            ["CONTAINER", "CPU %", "MEMORY", "RSS", "PAGE FAULTS"],
            rows,
            right=["CPU %", "MEMORY", "RSS", "PAGE FAULTS"],
        )
        net = after.linux.network.default_interface
        show.fact(
            "network " + net.name,
            f"received {human_size(net.rx_bytes.value)}, sent {human_size(net.tx_bytes.value)}",
        )
        show.fact("processes", after.linux.process.process_count.value)
        self.check(len(rows) == 2, "both containers are counted")
        self.check(net.name == "eth0" and net.tx_bytes.value > 0, "traffic is counted as the pod sees it")

    def kill_server(self, pod: Pod) -> None:
        """The pod outlives the server."""
        show.heading("kill -9 of the server", "The pod belongs to its shim; state lies on disk.")
        assert self.server is not None
        status = {name: self.kubelet.container(identifier) for name, identifier in pod.containers.items()}
        show.command(f"kill -9 {self.server.pid}")
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()
        self.check(self.kubelet.version() is None, "nobody answers on the socket")
        ticks = self.ticks()
        self.check(self.http("/hello").startswith("hello"), "the pod still answers HTTP")
        wait_until(lambda: self.ticks() >= ticks + 3, "the logs stand still")
        self.check(self.ticks() >= ticks + 3, f"its logs go on: {ticks} lines before, {self.ticks()} now")
        show.output(self.oakum("-n", "k8s.io", "ps", shown="-n k8s.io ps   # needs no server"))

        show.heading("The server again")
        took = self.start_server()
        show.fact("ready after", f"{took * 1000:.0f} ms")
        for name, identifier in pod.containers.items():
            now = self.kubelet.container(identifier)
            same = now.started_at == status[name].started_at and now.state == status[name].state
            self.check(
                same, f"{name} runs as before, started {(time.time_ns() - now.started_at) / 1e9:.0f} s ago"
            )
        self.check(
            self.kubelet.address(pod.id) == self.pod_address, f"the address is still {self.pod_address}"
        )
        code, _ = self.kubelet.execute(pod.containers["ticker"], "/bin/true")
        self.check(code == 0, "exec works")

    def remove(self, pod: Pod) -> None:
        """All away, and what is left."""
        show.heading("All away")
        began = time.monotonic()
        self.kubelet.remove(pod.id)
        show.fact("pod removed in", f"{(time.monotonic() - began) * 1000:.0f} ms")
        self.kubelet.remove_image(self.image)
        self.check(self.kubelet.pods() == [], "no pods")
        self.check(self.kubelet.image_names() == [], "no images")
        self.check(_size_below(self.root / "content" / "blobs") == 0, "no content")
        assert self.server is not None
        end_process(self.server)
        self.check(self.server.returncode == 0, "the server ended cleanly on SIGTERM")
        self._end_rest()
        self.check(not leftovers.processes(self.directory / "run"), "no processes")
        self.check(not leftovers.mounts(self.directory), "no mounts")
        self.check(not {c for c in leftovers.cgroups() if pod.id in c}, "no control groups")
        self.check(not leftovers.still_there(self.links), "no network interfaces")

    # ends

    def _web_answers(self) -> bool:
        try:
            return bool(self.http("/hello"))
        except (urllib.error.URLError, OSError):
            return False

    def _end_rest(self) -> None:
        for state in (self.state, self.directory / "workshop-run"):
            leftovers.end_zygote(state)
        leftovers.remove_bridge(self.root)

    def _remove_pods(self) -> None:
        """After a failure: pods go by the command line, which needs no server."""
        line = [sys.executable, "-m", "oakum.cli.main", "--root", str(self.root), "--state", str(self.state)]
        line += ["-n", "k8s.io", "pod"]
        found = subprocess.run([*line, "ls", "-q"], capture_output=True, text=True, timeout=60, check=False)
        if found.stdout.split():
            subprocess.run(
                [*line, "rm", "-f", *found.stdout.split()], capture_output=True, timeout=60, check=False
            )

    def close(self) -> None:
        """End what still runs, after a failure too; a second Ctrl-C must not stop it halfway."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.kubelet.close()
        if self.server is not None:
            end_process(self.server)
        if (self.root / "meta.db").exists():
            self._remove_pods()
        try:
            self._end_rest()
        except OakumError as error:
            show.bad(str(error))


def _size_below(directory: Path) -> int:
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(path, name)).st_size
    return total


def _stats_row(now: Any, before: Any) -> tuple[str, ...]:
    percent = "-"
    if before is not None and now.cpu.timestamp > before.cpu.timestamp:
        used = now.cpu.usage_core_nano_seconds.value - before.cpu.usage_core_nano_seconds.value
        percent = f"{100 * used / (now.cpu.timestamp - before.cpu.timestamp):.1f}"
    memory = now.memory
    return (
        now.attributes.metadata.name,
        percent,
        human_memory(memory.working_set_bytes.value),
        human_memory(memory.rss_bytes.value),
        str(memory.page_faults.value),
    )


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    """A directory of our own, gone at the end; with nothing mounted in it any more."""
    directory = Path(tempfile.mkdtemp(prefix="oakum-demo-"))
    try:
        yield directory
    finally:
        if leftovers.mounts(directory):
            show.bad(f"{directory} still has mounts and is left: {sorted(leftovers.mounts(directory))}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Tell the story; 0 when all of it is true."""
    if os.geteuid() != 0:
        show.bad("the demo needs root: namespaces, mounts and network")
        return 1
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()
    story: Story | None = None
    try:
        with _temporary_directory() as directory, contextlib.ExitStack() as stack:
            story = Story(directory, stack)
            stack.callback(story.close)
            story.registry()
            story.serve()
            story.pull()
            pod = story.run_pod()
            story.look(pod)
            story.statistics(pod)
            story.kill_server(pod)
            story.remove(pod)
    except (DemoFailed, urllib.error.URLError) as error:
        show.bad(str(error))
        return 1
    except grpc.RpcError as error:
        show.bad(f"{error.code().name}: {error.details()}")  # type: ignore[attr-defined] - what calls raise has them
        return 1
    except KeyboardInterrupt:
        show.bad("interrupted; everything was cleaned up")
        return 130
    show.console.print()
    if story.failed:
        show.bad(f"{len(story.failed)} checks failed")
        return 1
    show.good(f"all of it in {time.monotonic() - began:.1f} s, and nothing is left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
