# SPDX-License-Identifier: Apache-2.0
"""Kernel settings: made where they can be, told where they cannot. On a directory in place of /proc/sys/net."""

from __future__ import annotations

from pathlib import Path

import pytest

from oakum.network import sysctls


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "ipv4/ip_forward": "0",
        "ipv4/conf/oakum0/route_localnet": "0",
        "ipv6/conf/all/forwarding": "0",
        "ipv6/conf/all/accept_ra": "1",
        "ipv6/conf/all/disable_ipv6": "0",
        "ipv6/conf/default/disable_ipv6": "0",
        "ipv6/conf/default/accept_ra": "1",
        "ipv6/conf/eth0/accept_ra": "1",
        "ipv6/conf/eth1/accept_ra": "0",
        "ipv6/conf/oakum0/accept_ra": "1",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setattr(sysctls, "_NET", str(tmp_path))
    return tmp_path


def test_forwarding_is_switched_on(net: Path) -> None:
    assert sysctls.enable_ipv4("oakum0") == []
    assert (net / "ipv4/ip_forward").read_text() == "1"
    assert (net / "ipv4/conf/oakum0/route_localnet").read_text() == "1"


def test_routers_are_still_listened_to(net: Path) -> None:
    assert sysctls.enable_ipv6("oakum0") == []
    found = {
        name: (net / f"ipv6/conf/{name}/accept_ra").read_text().strip() for name in ("eth0", "eth1", "oakum0")
    }
    assert found == {"eth0": "2", "eth1": "0", "oakum0": "1"}
    assert (net / "ipv6/conf/all/forwarding").read_text() == "1"


def test_a_host_that_forwards_already_is_left_alone(net: Path) -> None:
    (net / "ipv6/conf/all/forwarding").write_text("1")
    assert sysctls.enable_ipv6("oakum0") == []
    assert (net / "ipv6/conf/eth0/accept_ra").read_text() == "1\n"


def test_what_cannot_be_set_is_told_with_its_consequence(net: Path) -> None:
    (net / "ipv4/ip_forward").unlink()
    (net / "ipv4/ip_forward").mkdir()
    (warning,) = sysctls.enable_ipv4("oakum0")
    assert warning == (
        "cannot set net.ipv4.ip_forward=1: Is a directory; pods reach nothing beyond this host"
    )


def test_ipv6_is_there_or_not(net: Path) -> None:
    assert sysctls.has_ipv6()
    (net / "ipv6/conf/default/disable_ipv6").write_text("1")
    assert not sysctls.has_ipv6()
    (net / "ipv6/conf/default/disable_ipv6").unlink()
    assert not sysctls.has_ipv6()
