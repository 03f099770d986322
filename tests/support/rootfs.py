# SPDX-License-Identifier: Apache-2.0
"""Root file systems of the machine's own static busybox, for tests that need no image."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

BUSYBOX = "/bin/busybox"
DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755,
    "sbin": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755,
    "var": 0o755, "var/log": 0o755, "www": 0o755,
}  # fmt: skip
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "web:x:33:33:web:/var/www:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/home:/bin/false\n"
)
GROUP = "root:x:0:\ndaemon:x:1:\nweb:x:33:\nlogs:x:44:web\nnogroup:x:65534:\n"


@cache
def applets() -> tuple[str, ...]:
    """The names busybox answers to."""
    done = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    return tuple(name for name in done.stdout.split() if name != "busybox")


def make_rootfs(path: str) -> str:
    """A small root file system at `path` (made), whose /bin is busybox; `path` again."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o755)
    for name, mode in DIRECTORIES.items():
        os.mkdir(f"{path}/{name}")
        os.chmod(f"{path}/{name}", mode)
    shutil.copyfile(BUSYBOX, f"{path}/bin/busybox")
    os.chmod(f"{path}/bin/busybox", 0o755)
    for name in applets():
        os.symlink("busybox", f"{path}/bin/{name}")
    for name, text in (("passwd", PASSWD), ("group", GROUP)):
        with open(f"{path}/etc/{name}", "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(f"{path}/etc/{name}", 0o644)
    with open(f"{path}/www/index.html", "w", encoding="ascii") as f:
        f.write("it works\n")
    return path
