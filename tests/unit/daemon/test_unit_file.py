# SPDX-License-Identifier: Apache-2.0
"""What the systemd unit promises: containers outlive the server, and systemd hears how it goes."""

from __future__ import annotations

import configparser
from pathlib import Path

UNIT = Path(__file__).resolve().parents[3] / "packaging/systemd/oakum.service"


def test_the_unit_keeps_containers_alive() -> None:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert float(service["WatchdogSec"]) >= 10
    # longer than the server lets calls in flight go on, see drain_s
    assert float(service["TimeoutStopSec"]) > 10
