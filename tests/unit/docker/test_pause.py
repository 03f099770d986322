# SPDX-License-Identifier: Apache-2.0
"""The program of sandboxes: it starts, ignores its children's ends, and goes when it is told to."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from oakum.docker import pause
from oakum.errors import Unimplemented
from tests.support.patience import eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_waits_for_its_end(tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "pause"
    program.write_bytes(pause.program(os.uname().machine))
    program.chmod(0o755)
    process = subprocess.Popen([program])

    def field(name: str) -> str:
        text = Path(f"/proc/{process.pid}/status").read_text()
        return next(line.split()[1] for line in text.splitlines() if line.startswith(name))

    def waits() -> bool:
        ignored = int(field("SigIgn:"), 16) >> (signal.SIGCHLD - 1) & 1
        return bool(ignored) and field("State:") == "S"

    try:
        eventually(waits, "its wait for a signal")
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_the_image_is_the_same_each_time_and_whole() -> None:
    name, archive = pause.archive("aarch64")
    assert (name, archive) == pause.archive("aarch64")
    assert name != pause.archive("x86_64")[0]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        manifest_file = tar.extractfile("manifest.json")
        assert manifest_file is not None
        manifest = json.load(manifest_file)[0]
        assert manifest["RepoTags"] == [name]
        layer = tar.extractfile(manifest["Layers"][0])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            assert [(e.name, e.mode) for e in inner] == [("pause", 0o755)]


def test_a_processor_that_it_does_not_know() -> None:
    with pytest.raises(Unimplemented, match="pause-image"):
        pause.program("s390x")
