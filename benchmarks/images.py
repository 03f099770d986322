# SPDX-License-Identifier: Apache-2.0
"""The images that both sides get: a small one, a pause image for the peer, a big one of this machine's own trees."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from tests.support.images import Blob, busybox_layer, make_layer, media_type, tar_entry
from tests.support.registry import Registry

_PAUSE = """
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int s) { _exit(0); }
static void reap(int s) { while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, reap); for (;;) pause(); }
"""
_TREES = ("/usr/bin", "/usr/lib/python3", "/usr/include", "/usr/share/doc", "/usr/share/perl")
_PIECE = 1 << 20


def push_small(registry: Registry) -> str:
    """Push busybox; its reference."""
    registry.push_image("bench/busybox", "1", [busybox_layer()], {"Cmd": ["sh"]})
    return f"{registry.address}/bench/busybox:1"


def push_pause(registry: Registry) -> str:
    """Push the usual reaping pause program, for the peer's sandboxes; its reference."""
    with tempfile.TemporaryDirectory() as directory:
        argv = ["gcc", "-static", "-Os", "-s", "-x", "c", "-o", f"{directory}/pause", "-"]
        subprocess.run(argv, input=_PAUSE.encode(), check=True)
        with open(f"{directory}/pause", "rb") as f:
            program = f.read()
    registry.push_image(
        "bench/pause", "1", [make_layer([tar_entry("pause", "f", program)])], {"Entrypoint": ["/pause"]}
    )
    return f"{registry.address}/bench/pause:1"


class Layer(NamedTuple):
    """A compressed layer in a file."""

    path: str
    digest: str
    diff_id: str
    size_bytes: int
    raw_bytes: int


def push_big(registry: Registry, directory: str) -> tuple[str, int, int]:
    """Push an image of this machine's own trees, one gzip layer each; reference, compressed and raw bytes."""
    trees = [tree for tree in (*_TREES, _interpreter()) if os.path.isdir(tree)]
    with ProcessPoolExecutor(2) as pool:
        layers = list(pool.map(_pack, trees, [f"{directory}/layer{i}" for i in range(len(trees))]))
    for layer in layers:
        _upload(registry, "bench/big", layer)
        os.unlink(layer.path)
    config = Blob(
        media_type("oci", "config"),
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            }
        ).encode(),
    )
    registry.push_blob("bench/big", config)
    gz = media_type("oci", "gzip")
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type("oci", "manifest"),
        "config": config.descriptor,
        "layers": [{"mediaType": gz, "digest": layer.digest, "size": layer.size_bytes} for layer in layers],
    }
    registry.put_manifest(
        "bench/big", "1", Blob(media_type("oci", "manifest"), json.dumps(manifest).encode())
    )
    sizes = sum(layer.size_bytes for layer in layers), sum(layer.raw_bytes for layer in layers)
    return f"{registry.address}/bench/big:1", *sizes


def _interpreter() -> str:
    """An interpreter's tree of many small files: this one's where it is no part of /usr."""
    return sys.base_prefix if not sys.base_prefix.startswith("/usr") else "/usr/lib/python3.11"


def _pack(tree: str, path: str) -> Layer:
    argv = ["tar", "-C", "/", "--sort=name", "--numeric-owner", "-cf", "-", tree.lstrip("/")]
    diff, raw_bytes = hashlib.sha256(), 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        assert tar.stdout is not None
        with gzip.GzipFile(path, "wb", 6, mtime=0) as out:
            while piece := tar.stdout.read(_PIECE):
                diff.update(piece)
                raw_bytes += len(piece)
                out.write(piece)
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return Layer(path, f"sha256:{digest}", f"sha256:{diff.hexdigest()}", os.path.getsize(path), raw_bytes)


def _upload(registry: Registry, name: str, layer: Layer) -> None:
    """Push the file as one streamed PUT."""
    _, headers, _ = registry.request("POST", f"/v2/{name}/blobs/uploads/", b"")
    place = urlsplit(urljoin(registry.url, headers["location"]))
    connection = http.client.HTTPConnection(registry.address, timeout=300)
    with open(layer.path, "rb") as body:
        connection.request(
            "PUT",
            f"{place.path}?{place.query}&digest={layer.digest}",
            body,
            {"Content-Type": "application/octet-stream", "Content-Length": str(layer.size_bytes)},
        )
        answer = connection.getresponse()
    if answer.status != 201:
        raise RuntimeError(f"push {layer.path}: {answer.status} {answer.read(300)!r}")
    connection.close()
