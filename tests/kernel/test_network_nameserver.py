# SPDX-License-Identifier: Apache-2.0
"""Containers that ask their own name server: about each other, and about what other servers know."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.backend.config import DnsConfig, NetworkRequest
from oakum.linux.fd import Fd
from oakum.linux.netns import inside, open_netns
from oakum.network import files
from tests.conftest import Directories
from tests.kernel.test_network_names import BACK, addresses, made, started
from tests.support.dns_messages import (
    NO_SUCH_NAME,
    SERVER_FAILURE,
    TRUNCATED,
    Upstream,
    answer_to,
    ask,
    ask_framed,
    query,
)
from tests.support.engines import Lab, clear, laboratory
from tests.support.patience import eventually, patient

VAULT = "vault"
OURS = "nameserver 127.0.0.11\n"


@pytest.fixture(scope="module")
def shop(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as lab:
        subnet6 = f"fd6f:616b:{os.getpid() & 0xFFFF:x}:53::/80"
        lab.engine.networks.create_network(BACK, subnets=[subnet6])
        lab.engine.networks.create_network(VAULT, internal=True)
        try:
            yield lab
        finally:
            clear(lab.engine)
            for name in (BACK, VAULT):
                lab.engine.networks.remove_network(name)


@pytest.fixture
def lab(shop: Lab) -> Iterator[Lab]:
    yield shop
    for status in shop.cri.list_containers():
        shop.cri.remove_container(status.id)


@contextlib.contextmanager
def asking(lab: Lab, container_id: str, kind: int = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    """A socket of this process that is connected to a container's server as one of its own is."""
    with _netns(lab, container_id) as netns:
        sock = inside(netns.fileno(), lambda: socket.socket(socket.AF_INET, kind))
    with sock:
        sock.settimeout(patient(20))
        sock.connect(("127.0.0.11", 53))
        yield sock


@contextlib.contextmanager
def upstream(lab: Lab, container_id: str, address: str) -> Iterator[Upstream]:
    """A server among a container's processes: it knows all names; by UDP it cuts what begins with "large"."""

    def behave(message: bytes, protocol: str) -> list[bytes]:
        if protocol == "udp" and message[13:18] == b"large":
            return [answer_to(message, [], flags=TRUNCATED)]
        return [answer_to(message, ["192.0.2.80"])]

    with _netns(lab, container_id) as netns:
        made_there = inside(netns.fileno(), lambda: Upstream(behave, address))
    with made_there.serving():
        yield made_there


def _netns(lab: Lab, container_id: str) -> Fd:
    return open_netns(f"{lab.engine.state}/pods/{sandbox(lab, container_id)}/ns/net")


def sandbox(lab: Lab, container_id: str) -> str:
    return lab.cri.container_status(container_id).sandbox_id


def find_server(lab: Lab, container_id: str) -> int:
    """The process id of a container's server; 0 for none."""
    title = f"oakum names {sandbox(lab, container_id)}"[:40].encode()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
            if file.read().startswith(title):
                return int(entry)
    return 0


def server_of(lab: Lab, container_id: str) -> int:
    """The process id of a container's server, which takes its title a moment after it was made."""
    return eventually(lambda: find_server(lab, container_id), "it has a server")


def is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_nslookup_finds_names_aliases_ids_and_addresses(lab: Lab) -> None:
    db = started(lab, "db", hostname="dbhost", network_aliases=("store", "cache"))
    web = started(lab, "web", network_aliases=("cache",))
    assert lab.run(web, "cat", "/etc/resolv.conf").startswith(OURS)
    of_db = addresses(lab, db)
    for name in ("db", "dbhost", "store", db[:12], "DB"):
        found = lab.run(web, "nslookup", name)
        assert {line.split()[-1] for line in found.splitlines() if line.startswith("Address:")} >= of_db
    for address in of_db:
        assert "name = dbhost" in lab.run(web, "nslookup", address)
    with asking(lab, web) as udp, asking(lab, web, socket.SOCK_STREAM) as tcp:
        both = {address for address in of_db | addresses(lab, web) if "." in address}
        assert ask(udp, query("cache")).addresses == ask_framed(tcp, query("cache")).addresses == both
        late = started(lab, "late")
        eventually(lambda: ask(udp, query("late")).addresses)
        assert ask(udp, query("late")).addresses <= addresses(lab, late)
        lab.cri.remove_container(late)
        eventually(lambda: not ask(udp, query("late")).addresses, "who is gone is not found")


def test_other_names_are_asked_of_the_servers_that_the_user_named(lab: Lab) -> None:
    far = started(lab, "far")
    (address,) = (each for each in addresses(lab, far) if "." in each)
    web = started(lab, "web", dns=DnsConfig(servers=(address,)))
    # Every address: port 53 is free for the container's own programs.
    with (
        upstream(lab, far, "") as heard,
        asking(lab, web) as udp,
        asking(lab, web, socket.SOCK_STREAM) as tcp,
    ):
        assert "192.0.2.80" in lab.run(web, "nslookup", "www.example")
        assert ask(udp, query("large.example", edns=1232)).is_truncated
        assert ask_framed(tcp, query("large.example", edns=1232)).addresses == {"192.0.2.80"}
        assert ask(udp, query("far")).addresses == {address}
        with asking(lab, far) as own:
            assert ask(own, query("web")).addresses, "both are in one namespace"
    names = {message[12:16] for _, message in heard.heard}
    assert names == {b"\3www", b"\5lar"}, "its neighbours are no business of others"
    with asking(lab, web) as udp:
        assert ask(udp, query("www.example")).code == SERVER_FAILURE, "nobody is there any more"
        assert ask(udp, query("far")).addresses == {address}


def test_what_only_the_host_reaches_is_asked_from_there_but_not_for_internal_networks(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loopback = "127.0.53.53"
    (tmp_path / "resolv.conf").write_text(f"nameserver {on_loopback}\n")
    monkeypatch.setattr(files, "_HOST_RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(files, "_RESOLVED", str(tmp_path / "none"))
    hidden, web = started(lab, "hidden", VAULT), started(lab, "web")
    host = Upstream(lambda message, _: [answer_to(message, ["192.0.2.99"])], on_loopback)
    with host.serving(), asking(lab, web) as udp, asking(lab, hidden) as secret:
        assert ask(udp, query("www.example")).addresses == {"192.0.2.99"}
        count = len(host.heard)
        assert ask(secret, query("www.example")).code == SERVER_FAILURE
        assert ask(secret, query("nobody")).code == NO_SUCH_NAME
        lab.cri.connect_network(web, NetworkRequest(network=VAULT))
        assert ask(udp, query("hidden")).addresses <= addresses(lab, hidden, VAULT)
        assert len(host.heard) == count
        lab.cri.disconnect_network(web, BACK)
        with asking(lab, web) as anew:
            assert ask(anew, query("www.example")).code == SERVER_FAILURE, "its way out is gone"
            assert ask(anew, query("hidden")).addresses
        assert len(host.heard) == count


def test_a_server_lives_as_long_as_its_pod_and_nobody_else_has_one(lab: Lab) -> None:
    plain = started(lab, "plain", "default")
    before = lab.run(plain, "cat", "/etc/resolv.conf")
    assert find_server(lab, plain) == 0
    assert "127.0.0.11" not in before
    web = started(lab, "web")
    pid = server_of(lab, web)
    with asking(lab, web) as udp:
        assert ask(udp, query("web")).addresses
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        (own,) = [int(line.split()[1]) for line in file if line.startswith("Private_Dirty:")]
    assert own < 4000, "kB: what such a container costs more than others"
    lab.cri.connect_network(plain, NetworkRequest(network=BACK))
    assert lab.run(plain, "cat", "/etc/resolv.conf").startswith(OURS)
    assert "Name:\tweb" in lab.run(plain, "nslookup", "web")
    later = server_of(lab, plain)
    lab.cri.disconnect_network(plain, BACK)
    assert find_server(lab, plain) == later, "who asks it once may ask it again"
    with asking(lab, plain) as udp:
        assert ask(udp, query("web")).code != 0
    lab.cri.stop_sandbox(sandbox(lab, web))
    eventually(lambda: is_gone(pid))
    os.kill(lab.cri.sandbox_status(sandbox(lab, plain)).shim_pid, signal.SIGKILL)
    eventually(lambda: is_gone(later))


def test_one_that_was_killed_is_said_in_the_log_and_made_anew(lab: Lab) -> None:
    web = started(lab, "web")
    pid = server_of(lab, web)
    os.kill(pid, signal.SIGKILL)
    with open(f"{lab.engine.state}/pods/{sandbox(lab, web)}/shim.log") as log:
        eventually(lambda: log.seek(0) or "names: ended with -9" in log.read())
    lab.cri.connect_network(web, NetworkRequest(network=VAULT))
    assert server_of(lab, web) != pid
    assert "Name:\tweb" in lab.run(web, "nslookup", "web")
    again = made(lab.cri, lab, "again")
    lab.cri.start_container(again)
    lab.cri.stop_container(again, timeout_s=0)
    lab.cri.stop_sandbox(sandbox(lab, again))
    lab.cri.rearm_container(again)
    lab.cri.start_container(again)
    assert "Name:\tagain" in lab.run(again, "nslookup", "again")
    assert "Name:\tagain" in lab.run(web, "nslookup", "again")


def test_a_file_that_somebody_has_changed_stays(lab: Lab) -> None:
    plain = started(lab, "plain", "default")
    lab.run(plain, "sh", "-c", "echo nameserver 192.0.2.53 > /etc/resolv.conf")
    lab.cri.connect_network(plain, NetworkRequest(network=BACK))
    assert lab.run(plain, "cat", "/etc/resolv.conf") == "nameserver 192.0.2.53\n"
