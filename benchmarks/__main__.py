# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmarks: which to run, how often, and where the figures go."""

from __future__ import annotations

import argparse
import compileall
import importlib
import json
import os
import platform
import subprocess
from typing import Any

from rich.console import Console
from tests.support.reaper import live_under_reaper, remove_directory, run_directory

import oakum
from benchmarks.figures import show

BENCHMARKS = {
    # first: rented disks are fast only until their credit is spent
    "pull": "pull and unpack of a big image",
    "init": "one container's life below a shim, and runc's",
    "oci": "oakum oci and runc on one bundle",
    "pod": "a pod's life over CRI",
    "runtimes": "a pod's life over CRI, both sides with runc",
    "net": "networks of pods, and host ports",
    "size": "500 containers listed and measured",
    "dockershim": "CRI over Docker, and Docker's own API",
    "run": "oakum run --rm IMAGE true",
}


def main() -> None:
    options = _options()
    live_under_reaper()
    # as installed: both sides run compiled code
    compileall.compile_dir(os.path.dirname(oakum.__file__), quiet=1)
    console = Console(width=None if os.isatty(1) else 120)
    found: dict[str, Any] = {"machine": f"{platform.release()}, {os.cpu_count()} processors", "figures": {}}
    for name in options.names or BENCHMARKS:
        # imported one by one, so that a single benchmark needs only its own peers
        module = importlib.import_module(f"benchmarks.{name}")
        directory = f"{run_directory()}/{name}"
        os.mkdir(directory)
        # what lies below /run on a node: on a tmpfs for both sides
        os.mkdir(f"{directory}/run")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", f"{directory}/run"], check=True)
        try:
            peer, figures = module.run(directory, options.rounds)
        finally:
            remove_directory(directory)
        show(f"{name}: {BENCHMARKS[name]}", peer, figures, console)
        found["figures"][name] = {"peer": peer, "rows": [f.to_dict() for f in figures]}
    if options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            json.dump(found, f, indent=1)
    rows = [row for one in found["figures"].values() for row in one["rows"] if row["met"] is not None]
    console.print(f"{sum(row['met'] for row in rows)} of {len(rows)} targets met ({found['machine']})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Oakum and its peers side by side (root)."
    )
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds of each side (default 20)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
