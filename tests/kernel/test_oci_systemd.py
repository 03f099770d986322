# SPDX-License-Identifier: Apache-2.0
"""The systemd driver, in a virtual machine that boots systemd: see `systemd_cases` for what is asked there.

The machine is emulated: one case here, and all of them, which take minutes, with OAKUM_TESTS_SYSTEMD=all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]


def test_on_a_machine_that_systemd_runs() -> None:
    command = f"{sys.executable} -m pytest -q -p no:cacheprovider --timeout=500 tests/kernel/systemd_cases.py"
    if os.environ.get("OAKUM_TESTS_SYSTEMD") != "all":
        command += " -k test_run_is_in_a_limited_scope"
    environment = {
        **os.environ,
        "VM_INIT": "systemd",
        "VM_TIMEOUT_S": "580",
        "VM_ENV": "OAKUM_TESTS_PATIENCE OAKUM_TESTS_ALONE PYTHONDONTWRITEBYTECODE",
        "OAKUM_TESTS_PATIENCE": "10",
        "OAKUM_TESTS_ALONE": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [str(REPOSITORY / "scripts/vm-cgroup2"), command],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
