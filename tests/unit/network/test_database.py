# SPDX-License-Identifier: Apache-2.0
"""network.db: nothing is handed out twice, and what fails midway was never there."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.errors import AlreadyExists, ResourceExhausted, SystemFailure
from oakum.network.database import AttachmentRow, NetworkDatabase, NetworkRow
from oakum.network.ports import Binding

NETWORK = NetworkRow("default", "oakum0", ipaddress.IPv4Network("10.0.0.0/28"), None)


def row(name: str) -> AttachmentRow:
    return AttachmentRow(name, "default", f"/run/{name}", name, f"oak{name}", 0, 1500, False)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[NetworkDatabase]:
    made = NetworkDatabase(str(tmp_path / "a" / "network.db"))
    with made.change():
        made.put_network(NETWORK)
    yield made
    made.close()


def test_networks_come_back_as_they_were(database: NetworkDatabase) -> None:
    assert database.networks() == [NETWORK]
    changed = NETWORK._replace(subnet6=ipaddress.IPv6Network("fd00::/64"))
    with database.change():
        database.put_network(changed)
    assert database.network("default") == changed
    assert database.network("other") is None


def test_addresses_go_round_and_run_out(database: NetworkDatabase) -> None:
    with database.change():
        offsets = [database.allocate(NETWORK, row(str(number))).offset for number in range(12)]
        database.release("3")
    assert offsets == list(range(2, 14))
    with database.change():
        assert database.allocate(NETWORK, row("next")).offset == 14, "the freed one is left alone"
    with database.change():
        assert database.allocate(NETWORK, row("last")).offset == 5
    with pytest.raises(ResourceExhausted), database.change():
        database.allocate(NETWORK, row("more"))
    assert database.attachment("more") is None


def test_a_failure_midway_takes_all_back(database: NetworkDatabase) -> None:
    def interrupted() -> None:
        with database.change():
            database.allocate(NETWORK, row("one"))
            raise KeyboardInterrupt

    def twice() -> None:
        with database.change():
            database.allocate(NETWORK, row("two"))
            database.allocate(NETWORK, row("one"))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert database.attachments() == []
    with database.change():
        database.allocate(NETWORK, row("one"))
    with pytest.raises(SystemFailure, match="UNIQUE"):
        twice()
    assert [attached.sandbox_id for attached in database.attachments()] == ["one"]


def test_a_port_has_one_sandbox(database: NetworkDatabase) -> None:
    with database.change():
        for name in ("one", "two"):
            database.allocate(NETWORK, row(name))
        database.reserve("one", [Binding("tcp", "127.0.0.1", 80, 8080)])
        database.reserve("two", [Binding("tcp", "10.0.0.9", 80, 8080), Binding("udp", "0.0.0.0", 80, 8080)])
    with pytest.raises(AlreadyExists, match=r"sandbox one has 127\.0\.0\.1:80/tcp"), database.change():
        database.reserve("two", [Binding("tcp", "0.0.0.0", 80, 1)])
    with database.change():
        database.reserve("one", [Binding("tcp", "127.0.0.1", 80, 9090)])
    assert database.bindings("one") == [Binding("tcp", "127.0.0.1", 80, 9090)]
    with database.change():
        database.release("one")
    assert database.bindings("one") == []
    assert len(database.bindings("two")) == 2


def test_many_at_once_take_turns(tmp_path: Path) -> None:
    path = str(tmp_path / "network.db")
    network = NETWORK._replace(subnet4=ipaddress.IPv4Network("10.0.0.0/16"))
    found: list[int] = []

    def work(number: int) -> None:
        database = NetworkDatabase(path)
        try:
            for turn in range(5):
                with database.change():
                    database.put_network(network)
                    found.append(database.allocate(network, row(f"{number}-{turn}")).offset)
        finally:
            database.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(2, 42))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "network.db").write_bytes(b"not a database" * 100)
    with pytest.raises(SystemFailure, match=r"open network database .*network\.db: file is not a database"):
        NetworkDatabase(str(tmp_path / "network.db"))
