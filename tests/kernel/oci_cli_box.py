# SPDX-License-Identifier: Apache-2.0
"""`oakum oci` as other programs call it: a runtime binary, a bundle with a busybox root, an image archive for daemons."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.kernel.oci_box import NAMESPACES, Box
from tests.support.images import build_image, busybox_layer

IMAGE = "docker.io/library/oakum-box:1"
OAKUM_OCI = Path(sys.executable).parent / "oakum-oci"
_numbers = itertools.count()


def runtime_binary(directory: Path, root: str = "") -> str:
    """A program that behaves as runc does, for callers that take the path of one and no arguments before its own."""
    if not root:
        return str(OAKUM_OCI)
    path = directory / "oakum-runtime"
    path.write_text(f'#!/bin/sh\nexec {OAKUM_OCI} --root {root} "$@"\n', encoding="ascii")
    path.chmod(0o755)
    return str(path)


def image_archive(path: Path) -> Path:
    """A `docker save` archive of a busybox image called `IMAGE`."""
    image = build_image([busybox_layer()], {"Cmd": ["sh"]}, compression="plain")
    files = {
        "config.json": image.config.data,
        "layer.tar": image.layers[0].data,
        "manifest.json": json.dumps(
            [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
        ).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Runtime:
    """The command line on a state directory of its own, with one bundle."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = str(directory / "state")
        self.bundle = str(directory / "bundle")
        os.makedirs(self.bundle)
        self.box = Box(self.bundle)
        self._used: list[str] = []

    def argv(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "oakum"), "oci", "--root", self.root, *arguments]

    def __call__(
        self, *arguments: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; its output goes to files, for a container that is left waiting keeps it open."""
        out, err = self.directory / f"out{next(_numbers)}", self.directory / f"err{next(_numbers)}"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            options.setdefault("stdin", subprocess.DEVNULL)
            done = subprocess.run(
                self.argv(*arguments), check=False, stdout=stdout, stderr=stderr, timeout=60, **options
            )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, out.read_text(errors="replace"), err.read_text(errors="replace")
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}: {result.stderr}")
        return result

    def write(self, *args: str, **changes: Any) -> dict[str, Any]:
        """Write the bundle's config.json: `args` as its command, `changes` as members of the spec, merged one level."""
        spec = self.box.spec(*args)
        spec["linux"]["namespaces"] = [{"type": kind} for kind in NAMESPACES]
        for member, value in changes.items():
            spec[member] = {**spec[member], **value} if isinstance(spec.get(member), dict) else value
        with open(f"{self.bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(spec, file)
        return spec

    def new_id(self) -> str:
        """An id that `close` deletes."""
        self._used.append(f"c{os.getpid()}-{next(_numbers)}")
        return self._used[-1]

    def create(self, *args: str, **changes: Any) -> str:
        """A created container; its id."""
        self.write(*args, **changes)
        container_id = self.new_id()
        self("create", "--bundle", self.bundle, container_id)
        return container_id

    def started(self, *args: str, **changes: Any) -> str:
        """A running container; its id."""
        container_id = self.create(*args, **changes)
        self("start", container_id)
        return container_id

    def state(self, container_id: str) -> dict[str, Any]:
        return json.loads(self("state", container_id).stdout)

    def close(self) -> None:
        """Delete what tests made."""
        for container_id in self._used:
            self("delete", "--force", container_id)
        for tree in self.box.layout.hierarchies:
            try:
                os.rmdir(f"{tree.mountpoint}/oakum-test-{os.getpid()}")
            except OSError:
                pass  # never made
