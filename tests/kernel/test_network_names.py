# SPDX-License-Identifier: Apache-2.0
"""Containers of one network find each other by name: in both families, while others come, move and go, and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from oakum.backend.config import NetworkRequest, SandboxConfig, SandboxMetadata
from oakum.engine.engine import Engine
from oakum.engine.namespace import Namespace
from oakum.engine.networks import wanted
from oakum.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from tests.conftest import Directories
from tests.support.engines import SLEEP, Lab, clear, laboratory, together
from tests.support.lines import killed_at, killed_at_every_line
from tests.support.patience import eventually

BACK, FRONT = "back", "front"


@pytest.fixture(scope="module")
def shop(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as made:
        for number, name in enumerate((BACK, FRONT)):
            subnet6 = f"fd6f:616b:{os.getpid() & 0xFFFF:x}:{number}::/64"
            made.engine.networks.create_network(name, subnets=[subnet6])
        try:
            yield made
        finally:
            clear(made.engine)
            for name in (BACK, FRONT):
                made.engine.networks.remove_network(name)


@pytest.fixture
def lab(shop: Lab) -> Iterator[Lab]:
    yield shop
    for status in shop.cri.list_containers():
        shop.cri.remove_container(status.id)


def made(cri: Namespace, lab: Lab, name: str, *networks: str, **fields: object) -> str:
    """A container as `oakum run` makes it."""
    first, *more = networks or (BACK,)
    sandbox = SandboxConfig(
        metadata=SandboxMetadata(name=name),
        owner="container",
        network=first,
        networks=tuple(NetworkRequest(network=each) for each in more),
        **fields,  # type: ignore[arg-type]
    )
    return cri.create_standalone(sandbox, lab.container(name, SLEEP, log_path=""))


def started(lab: Lab, name: str, *networks: str, **fields: object) -> str:
    container_id = made(lab.cri, lab, name, *networks, **fields)
    lab.cri.start_container(container_id)
    return container_id


def told(text: str) -> dict[str, set[str]]:
    """The addresses of each name in a hosts file, but for those of loopback."""
    found: dict[str, set[str]] = {}
    for line in text.split("\n"):
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            if not address.startswith(("127.", "::1", "f")) or address.startswith("fd"):
                found.setdefault(name, set()).add(address)
    return found


def hosts(lab: Lab, container_id: str) -> dict[str, set[str]]:
    return told(lab.run(container_id, "cat", "/etc/hosts"))


def addresses(lab: Lab, container_id: str, network: str = BACK) -> set[str]:
    sandbox_id = lab.cri.container_status(container_id).sandbox_id
    (found,) = (
        place for place in lab.engine.networks.builtin.attachments_of(sandbox_id) if place.network == network
    )
    return set(found.addresses)


def test_containers_find_each_other_by_name_host_name_alias_and_id(lab: Lab) -> None:
    db = started(lab, "db", hostname="dbhost", network_aliases=("store", "cache"))
    web = started(lab, "web", network_aliases=("cache",))
    of_db, of_web = addresses(lab, db), addresses(lab, web)
    for container in (db, web):
        names = hosts(lab, container)
        for name in ("db", "dbhost", db[:12], "store"):
            assert names[name] == of_db
        for name in ("web", web[:12]):
            assert names[name] == of_web
        assert names["cache"] == of_db | of_web, "an alias may be several's"
    for name in ("db", "dbhost", "store", db[:12]):
        assert " 0% packet loss" in lab.run(web, "ping", "-c1", "-W5", name)
        assert " 0% packet loss" in lab.run(web, "ping6", "-c1", "-W5", name)


def test_names_follow_those_who_come_move_and_go(lab: Lab) -> None:
    web = started(lab, "web")
    assert "db" not in hosts(lab, web)
    db = made(lab.cri, lab, "db", FRONT)
    assert "db" not in hosts(lab, web), "it is in another network"
    lab.cri.connect_network(db, NetworkRequest(network=BACK, aliases=("store",)))
    lab.cri.start_container(db)
    assert hosts(lab, web)["store"] == hosts(lab, web)["db"] == addresses(lab, db)
    assert hosts(lab, db)["web"] == addresses(lab, web)
    lab.cri.disconnect_network(db, FRONT)
    assert hosts(lab, db)["db"] == addresses(lab, db), "its own line in the other network is gone"
    said = lab.run(db, "ip", "-o", "addr")
    assert ("eth0" in said, "eth1" in said) == (False, True)

    # Stopped with its pod and started again, it is there again under the same names, wherever it is now.
    lab.cri.stop_container(db, timeout_s=0)
    lab.cri.stop_sandbox(lab.cri.container_status(db).sandbox_id)
    assert "db" not in hosts(lab, web)
    lab.cri.rearm_container(db)
    lab.cri.start_container(db)
    assert hosts(lab, web)["store"] == hosts(lab, web)[db[:12]] == addresses(lab, db)
    assert hosts(lab, db)["web"] == addresses(lab, web)

    lab.cri.disconnect_network(db, BACK)
    assert "db" not in hosts(lab, web)
    assert hosts(lab, db) == {}, "it finds nobody, itself included"
    lab.cri.connect_network(db, NetworkRequest(network=BACK))
    assert hosts(lab, web)["db"] == addresses(lab, db)
    assert "store" not in hosts(lab, web)
    lab.cri.remove_container(db)
    assert set(hosts(lab, web)) == {"web", web[:12], lab.run(web, "hostname").strip()}


def test_changes_of_a_stopped_container_hold_from_its_next_start(lab: Lab) -> None:
    web, db = started(lab, "web"), started(lab, "db", FRONT)
    lab.cri.stop_container(db, timeout_s=0)
    lab.cri.stop_sandbox(lab.cri.container_status(db).sandbox_id)
    lab.cri.connect_network(db, NetworkRequest(network=BACK, mac="02:00:00:00:00:07"))
    lab.cri.disconnect_network(db, FRONT)
    with pytest.raises(NotFound, match="is not in it"):
        lab.cri.disconnect_network(db, FRONT)
    lab.cri.disconnect_network(db, FRONT, force=True)
    lab.cri.rearm_container(db)
    lab.cri.start_container(db)
    assert hosts(lab, web)["db"] == addresses(lab, db)
    assert "02:00:00:00:00:07" in lab.run(db, "ip", "link", "show", "eth0")


def test_on_the_default_network_nobody_is_told_of_others(lab: Lab) -> None:
    one, two = started(lab, "one", "default"), started(lab, "two", "default")
    with lab.pod("three") as pod:
        three = lab.started(pod)
        for container, name in ((one, "one"), (two, "two")):
            assert hosts(lab, container)[name] == addresses(lab, container, "default")
        assert not {"one", "three"} & set(hosts(lab, two))
        assert not {"one", "two"} & set(hosts(lab, three))
        with pytest.raises(FailedPrecondition, match="a pod keeps the network"):
            lab.cri.connect_network(three, NetworkRequest(network=BACK))
    lab.cri.connect_network(one, NetworkRequest(network=BACK))
    assert hosts(lab, one)["one"] == addresses(lab, one) | addresses(lab, one, "default")
    assert set(hosts(lab, two)) == {"two", lab.run(two, "hostname").strip()}


def test_nobody_can_take_anothers_name_or_mean_everybody(lab: Lab) -> None:
    victim = started(lab, "victim", extra_hosts=(("registry.example", "192.0.2.9"),))
    thief = started(
        lab, "thief", hostname="victim", network_aliases=("registry.example", "VICTIM", "innocent")
    )
    names = hosts(lab, victim)
    assert names["victim"] == addresses(lab, victim)
    assert names["registry.example"] == {"192.0.2.9"}
    assert names["innocent"] == addresses(lab, thief)
    assert not {"VICTIM", "localhost"} & set(names)
    for bad in ("localhost", "a.localhost", "ip6-loopback", "a b", "a\n192.0.2.1 b", ""):
        with pytest.raises(InvalidArgument, match="name container in network"):
            made(lab.cri, lab, "bad", network_aliases=(bad,))
        with pytest.raises(InvalidArgument, match="name container in network"):
            lab.cri.connect_network(thief, NetworkRequest(network=FRONT, aliases=(bad,)))
    assert [
        place.network
        for place in lab.engine.networks.builtin.attachments_of(lab.cri.container_status(thief).sandbox_id)
    ] == [BACK]
    plain = started(lab, "localhost", "default")
    with pytest.raises(InvalidArgument, match="means a host itself"):
        lab.cri.connect_network(plain, NetworkRequest(network=BACK))
    assert {status.config.metadata.name for status in lab.cri.list_containers()} == {
        "victim",
        "thief",
        "localhost",
    }


def test_what_a_container_writes_into_its_file_stays_and_harms_nobody(lab: Lab) -> None:
    web = started(lab, "web")
    lab.run(web, "sh", "-c", "echo 192.0.2.7 mine >> /etc/hosts")
    db = started(lab, "db")
    assert hosts(lab, web)["mine"] == {"192.0.2.7"}
    assert hosts(lab, web)["db"] == addresses(lab, db)
    lab.run(web, "sh", "-c", "head -c 2000000 /dev/zero | tr '\\0' '#' > /etc/hosts")
    third = started(lab, "third")
    assert hosts(lab, db)["third"] == hosts(lab, third)["third"] == addresses(lab, third)
    assert ["too large" in line for line in lab.engine.recover()] == [True], "it is said, and tried again"
    lab.run(web, "sh", "-c", ": > /etc/hosts")
    assert lab.engine.recover() == []
    assert hosts(lab, web)["third"] == addresses(lab, third)


def test_readers_see_whole_lines_at_any_moment(lab: Lab) -> None:
    web = started(lab, "web")
    path = f"{lab.engine.root}/sandboxes/{lab.cri.container_status(web).sandbox_id}/hosts"
    other = started(lab, "a-neighbour-with-a-rather-long-name", FRONT)
    odd: list[bytes] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
            odd.extend(line for line in lines if line and (line.count(b"\t") == 0 or line[:1] in b" \t#"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(8):
            lab.cri.connect_network(other, NetworkRequest(network=BACK, aliases=("x" * 60, "y" * 60)))
            lab.cri.disconnect_network(other, BACK)
    finally:
        over.set()
        reader.join()
    assert odd == []


def check(engine: Engine) -> None:
    """Every container is in the networks it is to be in, and its hosts file says who is there and nothing else."""
    context = engine._context
    builtin = engine.networks.builtin
    assert (builtin.due("names"), builtin.due("networks")) == ([], [])
    for record in context.store.sandboxes():
        places = builtin.attachments_of(record.id)
        if record.phase != "ready" or not record.has_network:
            assert places == []
            continue
        assert [place.network for place in places] == [request.network for request in wanted(record)]
        with open(f"{context.layout.sandbox(record.id)}/hosts") as file:
            lines = [line for line in file.read().split("\n") if "# oakum network" in line]
        assert lines == (builtin.name_lines(record.id) or [])
        inner = {link["ifname"] for link in _links(f"{context.layout.pod(record.id)}/ns/net")}
        assert inner == {"lo", *(place.interface for place in places)}


def _links(netns_path: str) -> list[dict[str, str]]:
    command = ["nsenter", f"--net={netns_path}", "ip", "-j", "link"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_many_that_come_and_go_at_once_are_told_of_those_who_stay(lab: Lab) -> None:
    def life(number: int) -> None:
        container = started(lab, f"c{number}", BACK)
        lab.cri.connect_network(container, NetworkRequest(network=FRONT))
        if number % 2:
            lab.cri.remove_container(container)
        else:
            lab.cri.disconnect_network(container, BACK)
            lab.cri.connect_network(container, NetworkRequest(network=BACK))

    assert together(6, life) == [None] * 6
    check_all = {f"c{number}" for number in (0, 2, 4)}
    for status in lab.cri.list_containers():
        names = set(hosts(lab, status.id))
        assert check_all <= names
        assert not {"c1", "c3", "c5"} & names
    assert len(lab.cri.list_containers()) == 3
    assert lab.engine.networks.builtin.due("names") == []


def test_a_container_that_was_lost_is_forgotten_by_its_neighbours(lab: Lab) -> None:
    web, db = started(lab, "web"), started(lab, "db")
    pid = lab.cri.sandbox_status(lab.cri.container_status(db).sandbox_id).shim_pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert any("its shim is gone" in line for line in lab.engine.recover())
    assert "db" not in hosts(lab, web)
    check(lab.engine)


def test_a_sandbox_whose_container_was_never_made_gives_its_name_back_in_time(lab: Lab) -> None:
    web = started(lab, "web")
    config = SandboxConfig(metadata=SandboxMetadata(name="ghost"), owner="container", network=BACK)
    ghost = lab.cri.run_sandbox(config)
    lab.engine.recover_fully()
    assert "ghost" in hosts(lab, web), "its maker may be at work on the container"
    store = lab.engine._context.store
    row = store.sandbox(ghost)
    assert row is not None
    store.update_sandbox(msgspec.structs.replace(row, created_at_ns=row.created_at_ns - 10**12))
    assert any("was never made" in line for line in lab.engine.recover_fully())
    assert "ghost" not in hosts(lab, web)
    check(lab.engine)


@contextmanager
def closed(lab: Lab) -> Iterator[None]:
    """No database is open: children that are forked must not inherit one."""
    lab.engine.close()
    yield
    lab.engine.recover_fully()


def test_killed_between_any_lines_of_connect_and_disconnect_the_next_call_finishes(lab: Lab) -> None:
    web = started(lab, "web", BACK)
    db = started(lab, "db", BACK)

    def life() -> None:
        with Engine(lab.engine.root, lab.engine.state) as engine:
            cri = engine.namespace("k8s.io")
            cri.disconnect_network(db, BACK, force=True)
            cri.connect_network(db, NetworkRequest(network=FRONT, aliases=("store",)))
            cri.connect_network(db, NetworkRequest(network=BACK))
            cri.disconnect_network(db, FRONT)

    rounds = 0
    with closed(lab):
        for line in killed_at_every_line(life, within="src/oakum/", step=331):
            rounds += 1
            with Engine(lab.engine.root, lab.engine.state) as fresh:
                fresh.recover()
                check(fresh)
                cri = fresh.namespace("k8s.io")
                for network, back in ((FRONT, False), (BACK, True)):
                    cri.disconnect_network(db, network, force=True)
                    if back:
                        cri.connect_network(db, NetworkRequest(network=network))
                fresh.recover()
                assert "db" in _names(fresh, web), f"after line {line}"
    assert rounds > 8


def _names(engine: Engine, container_id: str) -> set[str]:
    said = engine.namespace("k8s.io").exec_sync(container_id, ["cat", "/etc/hosts"], timeout_s=20)
    return set(told(said.stdout.decode()))


def test_killed_between_any_lines_of_a_removal_no_name_stays(lab: Lab) -> None:
    web = started(lab, "web", BACK)
    rounds = 0
    victim = ""

    def life() -> None:
        with Engine(lab.engine.root, lab.engine.state) as engine:
            engine.namespace("k8s.io").remove_container(victim)

    with closed(lab):
        for step in range(1, 100_000, 263):
            with Engine(lab.engine.root, lab.engine.state) as engine:
                victim = made(engine.namespace("k8s.io"), lab, f"v{step}", BACK)
            killed = killed_at(step, life, within="src/oakum/")
            with Engine(lab.engine.root, lab.engine.state) as fresh:
                fresh.recover()
                check(fresh)
                there = {status.id for status in fresh.namespace("k8s.io").list_containers()}
                assert (f"v{step}" in _names(fresh, web)) == (victim in there), f"after line {step}"
                fresh.namespace("k8s.io").remove_container(victim)
            if not killed:
                break
            rounds += 1
    assert rounds > 5


def test_killed_between_any_lines_of_a_creation_names_are_those_of_containers_that_are_there(
    lab: Lab,
) -> None:
    web = started(lab, "web", BACK)
    rounds = 0
    with closed(lab):
        for step in range(1, 100_000, 409):

            def life(name: str = f"n{step}") -> None:
                with Engine(lab.engine.root, lab.engine.state) as engine:
                    made(engine.namespace("k8s.io"), lab, name, BACK, FRONT)

            killed = killed_at(step, life, within="src/oakum/")
            with Engine(lab.engine.root, lab.engine.state) as fresh:
                fresh.recover()
                check(fresh)
                cri = fresh.namespace("k8s.io")
                there = [status for status in cri.list_containers() if status.id != web]
                names = _names(fresh, web)
                for status in there:
                    assert {f"n{step}", status.id[:12]} <= names, f"after line {step}"
                    cri.remove_container(status.id)
                for sandbox in cri.list_sandboxes():  # made, and its container not
                    if sandbox.id != cri.container_status(web).sandbox_id:
                        assert not there
                        cri.remove_sandbox(sandbox.id)
                assert f"n{step}" not in _names(fresh, web)
            if not killed:
                break
            rounds += 1
    assert rounds > 5


def test_what_makes_no_sense_is_refused_and_changes_nothing(lab: Lab) -> None:
    web = started(lab, "web")
    alone = made(lab.cri, lab, "alone", "none")
    with pytest.raises(AlreadyExists, match="container web is in it"):
        lab.cri.connect_network(web, NetworkRequest(network=BACK))
    with pytest.raises(NotFound, match="no such network"):
        lab.cri.connect_network(web, NetworkRequest(network="nowhere"))
    with pytest.raises(FailedPrecondition, match="has no network"):
        lab.cri.connect_network(alone, NetworkRequest(network=BACK))
    address = next(iter(addresses(lab, started(lab, "db", FRONT), FRONT)))
    with pytest.raises(AlreadyExists, match="assign address"):
        lab.cri.connect_network(web, NetworkRequest(network=FRONT, addresses=(address,)))
    with pytest.raises(FailedPrecondition, match=r"container web is connected to it"):
        lab.engine.networks.remove_network(BACK)
    check(lab.engine)
