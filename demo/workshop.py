# SPDX-License-Identifier: Apache-2.0
"""What the demo needs around it: an image made of this machine's busybox, and a real registry to serve it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

_PAGE = "hello from a pod that needs no daemon\n"
# something to watch while it comes: bytes that do not compress
_BALLAST_BYTES = 24 << 20
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}


class DemoFailed(Exception):
    """The story cannot go on; the text says why."""


def build_image(directory: Path, name: str) -> tuple[Path, int]:
    """Write an OCI layout archive of the image `name`; its path and the size of its blobs."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise DemoFailed("busybox is not installed: apt-get install busybox-static")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layers = [_busybox_layer(Path(busybox), applets), _page_layer()]
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(d).hexdigest() for d in layers]},
        "history": [{"created_by": "busybox"}, {"created_by": "a page and some ballast"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(data, "application/vnd.oci.image.layer.v1.tar+gzip") for data in packed],
    }
    head = blob(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    head["annotations"] = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
    index = {"schemaVersion": 2, "manifests": [head]}
    path = directory / "demo-image.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            _add(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", data)
    return path, sum(len(data) for data in blobs.values())


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _directory(archive: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def _busybox_layer(busybox: Path, applets: list[str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name in ("bin", "etc", "proc", "sys", "dev", "root", "var"):
            _directory(archive, name)
        _directory(archive, "tmp", 0o1777)
        _add(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
        _add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
        _add(archive, "etc/group", b"root:x:0:\nnobody:x:65534:\n")
    return raw.getvalue()


def _page_layer() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        _directory(archive, "www")
        _add(archive, "www/hello", _PAGE.encode())
        _add(archive, "www/ballast", os.urandom(_BALLAST_BYTES))
    return raw.getvalue()


class Registry:
    """Debian's docker-registry on a free loopback port, as long as the context lasts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Registry:
        program = shutil.which("docker-registry")
        if program is None:
            raise DemoFailed("docker-registry is not installed: apt-get install docker-registry")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        config = self._directory / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._directory}/registry}}}}\n"
            f"http: {{addr: '{self.address}'}}\n"
        )
        self._process = start_process([program, "serve", str(config)], self._directory / "registry.log")
        wait_until(self._answers, "the registry does not answer", self._directory / "registry.log")
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            end_process(self._process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def start_process(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program whose output goes to `log`; Ctrl-C of the terminal does not reach it."""
    with log.open("ab") as file:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )


def end_process(process: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> None:
    """End a program that `start_process` started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(condition: object, failure: str, log: Path | None = None, *, timeout_s: float = 20.0) -> None:
    """Ask `condition` until it holds. Raises DemoFailed with the end of `log`."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log is not None and log.exists() else ""
            raise DemoFailed(f"{failure}\n{tail}".rstrip())
        time.sleep(0.03)
