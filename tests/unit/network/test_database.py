# SPDX-License-Identifier: Apache-2.0
"""network.db: nothing is handed out twice, and what fails midway was never there."""

from __future__ import annotations

import ipaddress
import sqlite3
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
    with pytest.raises(ResourceExhausted), database.change():
        database.allocate(NETWORK, row("early"))
    with database.change():
        database.forget(database.leaving())
        assert database.allocate(NETWORK, row("last")).offset == 5
    with pytest.raises(ResourceExhausted), database.change():
        database.allocate(NETWORK, row("more"))
    assert database.attachment("more") is None


def test_an_address_is_nobodys_while_its_link_may_be_there(database: NetworkDatabase) -> None:
    with database.change():
        for name in "ab":
            database.allocate(NETWORK, row(name))
        database.release("a")
    (left,) = database.leaving()
    assert (left.host_interface, left.network, left.offset) == ("oaka", "default", 2)
    with pytest.raises(AlreadyExists, match=r"10\.0\.0\.2: interface oaka has it"), database.change():
        database.allocate(NETWORK, row("c"), chosen=2)
    with database.change():
        database.forget([left])
        assert database.allocate(NETWORK, row("c"), chosen=2).offset == 2


def test_a_sandbox_that_comes_back_sees_to_its_old_link_itself(database: NetworkDatabase) -> None:
    with database.change():
        database.allocate(NETWORK, row("a"))
        database.release("a")
    (left,) = database.leaving()
    with database.change():
        database.allocate(NETWORK, row("a"), chosen=7)
        assert database.leaving() == [], "nobody deletes the link that it makes"
        assert 2 not in [database.allocate(NETWORK, row(str(number))).offset for number in range(11)]
        database.release("a")
        assert sorted(each.offset for each in database.leaving()) == [2, 7], "it has made none yet"
        database.allocate(NETWORK, row("a"), chosen=2)
        database.come_back("oaka")
        database.release("a")
        database.forget([left])
    assert [each.offset for each in database.leaving()] == [2], "of an earlier stay, the note is another one"


def test_a_network_that_goes_takes_its_links_along(database: NetworkDatabase) -> None:
    with database.change():
        database.allocate(NETWORK, row("a"))
        database.release("a")
        database.drop_network("default")
    assert database.leaving() == []


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


# As the first version of it made it, with a sandbox attached.
FIRST_VERSION = """
CREATE TABLE networks (
    name TEXT PRIMARY KEY, bridge TEXT NOT NULL UNIQUE, subnet4 TEXT NOT NULL, subnet6 TEXT NOT NULL,
    last_offset INTEGER NOT NULL DEFAULT 1) STRICT;
CREATE TABLE attachments (
    sandbox_id TEXT PRIMARY KEY, network TEXT NOT NULL REFERENCES networks (name), netns_path TEXT NOT NULL,
    hostname TEXT NOT NULL, host_interface TEXT NOT NULL UNIQUE, offset INTEGER NOT NULL,
    mtu INTEGER NOT NULL DEFAULT 0, has_ipv6 INTEGER NOT NULL DEFAULT 0, UNIQUE (network, offset)) STRICT;
CREATE TABLE ports (
    protocol TEXT NOT NULL, host_ip TEXT NOT NULL, host_port INTEGER NOT NULL, container_port INTEGER NOT NULL,
    sandbox_id TEXT NOT NULL REFERENCES attachments (sandbox_id) ON DELETE CASCADE,
    PRIMARY KEY (protocol, host_ip, host_port)) STRICT;
CREATE INDEX ports_of_sandbox ON ports (sandbox_id);
INSERT INTO networks VALUES ('default', 'oakum0', '10.0.0.0/28', '', 2);
INSERT INTO attachments VALUES ('a', 'default', '/run/a', 'a', 'oaka', 2, 1500, 0);
PRAGMA user_version = 1;
"""


def test_a_database_of_the_first_version_goes_on(tmp_path: Path) -> None:
    path = str(tmp_path / "network.db")
    old = sqlite3.connect(path)
    old.executescript(FIRST_VERSION)
    old.close()
    opened = [NetworkDatabase(path) for _ in range(2)]
    assert opened[0].networks() == [NETWORK]
    assert opened[1].attachment("a") == row("a")._replace(offset=2)
    assert opened[0].leaving() == []
    with opened[0].change():
        assert opened[0].allocate(NETWORK, row("b")).offset == 3
    for each in opened:
        each.close()


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "network.db")
    new = sqlite3.connect(path)
    new.execute("PRAGMA user_version = 99")
    new.close()
    with pytest.raises(SystemFailure, match="it has version 99, newer than"):
        NetworkDatabase(path)


def test_a_chosen_address_is_given_once(database: NetworkDatabase) -> None:
    with database.change():
        assert database.allocate(NETWORK, row("a"), chosen=5).offset == 5
    with pytest.raises(AlreadyExists, match=r"10\.0\.0\.5: sandbox a has it"), database.change():
        database.allocate(NETWORK, row("b"), chosen=5)
    with database.change():
        # It moves nothing: the next one is as it would have been.
        assert [database.allocate(NETWORK, row(name)).offset for name in "bcde"] == [2, 3, 4, 6]


def test_limits_and_macs_come_back(database: NetworkDatabase) -> None:
    wanted = row("a")._replace(mac="02:00:00:00:00:01", ingress=1000, egress=2000)
    with database.change():
        given = database.allocate(NETWORK, wanted)
    assert database.attachment("a") == given
    with database.change():
        database.update_attachment(given._replace(ingress=0))
        database.put_network(NETWORK._replace(mtu=1400, internal=True))
    assert database.attachment("a") == given._replace(ingress=0)
    assert database.networks() == [NETWORK._replace(mtu=1400, internal=True)]


def test_ports_of_an_older_version_survive_and_places_become_several(tmp_path: Path) -> None:
    path = str(tmp_path / "network.db")
    old = sqlite3.connect(path)
    old.executescript(FIRST_VERSION + "INSERT INTO ports VALUES ('tcp', '0.0.0.0', 80, 8080, 'a');")
    old.close()
    database = NetworkDatabase(path)
    assert database.bindings("a") == [Binding("tcp", "0.0.0.0", 80, 8080)]
    back = NETWORK._replace(name="back", bridge="oakum1", subnet4=ipaddress.IPv4Network("10.1.0.0/28"))
    with database.change():
        database.put_network(back)
        second = row("a")._replace(network="back", host_interface="oakx", interface="eth1", names="a b c")
        second = database.allocate(back, second)
    assert database.attachments_of("a") == [row("a")._replace(offset=2), second]
    assert database.attachments_to("back") == [second]
    with database.change():
        database.leave("a", "default")
    assert database.attachment("a") == second
    with database.change():
        database.release("a")
    assert not database.knows("a")
    database.close()


def test_what_is_owed_once_more_meanwhile_stays_owed(database: NetworkDatabase) -> None:
    with database.change():
        database.owe("one", "names")
        database.owe("one", "networks")
    (read,) = database.due("names")
    with database.change():
        database.owe("one", "names")
        database.settle(read)
    (again,) = database.due("names")
    with database.change():
        database.settle(again)
    assert database.due("names") == []
    assert [due.what for due in database.due("networks")] == ["networks"]
