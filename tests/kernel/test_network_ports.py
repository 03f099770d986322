# SPDX-License-Identifier: Apache-2.0
"""Host ports: who reaches a pod by them from where, and who is refused. Cross-checked with nft."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import AlreadyExists, InvalidArgument, OakumError, Unimplemented
from oakum.network.builtin import BuiltinNetwork
from tests.kernel.test_network_pods import ONE, TWO, talk
from tests.support import network_fixtures
from tests.support.netlab import HOST4, HOST6, OUTSIDE4, Lab, Place
from tests.support.patience import patient

lab = network_fixtures.lab
network = network_fixtures.network


def published(lab: Lab, network: BuiltinNetwork, name: str) -> list[object]:
    (found,) = lab.nft(f"map inet {network.table} {name}")
    return list(found["map"].get("elem", []))


def test_a_published_tcp_port_answers_from_everywhere(lab: Lab, network: BuiltinNetwork) -> None:
    pod, neighbour = lab.pod(), lab.pod()
    attached = network.setup(ONE, pod.path, port_mappings=[PortMapping(container_port=80, host_port=8080)])
    beside = network.setup(TWO, neighbour.path)
    v4, v6 = (pod.listen(address, 80) for address in attached.addresses)
    gateway4, gateway6 = attached.gateways
    assert published(lab, network, "any4") == [
        [{"concat": ["tcp", 8080]}, {"concat": [attached.address, 80]}]
    ]

    assert talk(lab.outside, HOST4, 8080, v4) == OUTSIDE4, "a client's address is kept"
    assert talk(lab.outside, HOST6, 8080, v6) != HOST6
    assert talk(lab.host, "127.0.0.1", 8080, v4) == gateway4
    assert talk(lab.host, HOST4, 8080, v4) == HOST4
    assert talk(lab.host, HOST6, 8080, v6) == HOST6
    # From a pod, to a pod, by the host's address: through the host both ways, even to itself.
    assert talk(neighbour, HOST4, 8080, v4) == gateway4
    assert talk(neighbour, HOST6, 8080, v6) == gateway6
    assert talk(pod, HOST4, 8080, v4) == gateway4
    assert talk(pod, HOST6, 8080, v6) == gateway6
    assert talk(pod, gateway4, 8080, v4) == gateway4
    assert talk(neighbour, attached.address, 80, v4) == beside.address
    # A client that tries ::1 first is refused at once and tries 127.0.0.1 next.
    with pytest.raises(ConnectionRefusedError):
        lab.host.connect("::1", 8080)

    network.teardown(ONE)
    assert published(lab, network, "any4") == []
    assert published(lab, network, "any6") == []
    with pytest.raises(ConnectionRefusedError):
        lab.outside.connect(HOST4, 8080)


def test_a_published_udp_port_answers_from_everywhere(lab: Lab, network: BuiltinNetwork) -> None:
    pod, neighbour = lab.pod(), lab.pod()
    mapping = PortMapping(container_port=53, host_port=5353, protocol="udp")
    network.setup(ONE, pod.path, port_mappings=[mapping])
    network.setup(TWO, neighbour.path)
    server = pod.bind_udp("0.0.0.0", 53)
    server.settimeout(patient(5))
    for client, address in (
        (lab.outside, HOST4),
        (lab.host, "127.0.0.1"),
        (lab.host, HOST4),
        (neighbour, HOST4),
        (pod, HOST4),
    ):
        near = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.sendto(b"ahoy", (address, 5353))
        data, peer = server.recvfrom(16)
        assert data == b"ahoy"
        server.sendto(b"aye", peer)
        assert near.recvfrom(16) == (b"aye", (address, 5353)), f"from {client} by {address}"


def test_a_udp_client_follows_the_port_to_the_next_pod(lab: Lab, network: BuiltinNetwork) -> None:
    mapping = PortMapping(container_port=53, host_port=5353, protocol="udp")
    client = lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # Nobody has the port yet: the kernel notes a flow to the host itself, and the client keeps sending.
    client.sendto(b"early", (HOST4, 5353))
    for sandbox_id in (ONE, TWO):
        pod = lab.pod()
        network.setup(sandbox_id, pod.path, port_mappings=[mapping])
        server = pod.bind_udp("0.0.0.0", 53)
        server.settimeout(patient(5))
        client.sendto(sandbox_id.encode(), (HOST4, 5353))
        received = server.recv(100)
        if received == b"early":  # it had waited for an answer to ARP
            received = server.recv(100)
        assert received == sandbox_id.encode()
        network.teardown(sandbox_id)


def test_a_port_on_loopback_is_for_this_host_only(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    mapping = PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1")
    network.setup(ONE, pod.path, port_mappings=[mapping])
    server = pod.listen("0.0.0.0", 80)
    talk(lab.host, "127.0.0.1", 8080, server)
    with pytest.raises(ConnectionRefusedError):
        lab.outside.connect(HOST4, 8080)
    # A neighbour on the wire may send anything, also packets to 127.0.0.1.
    lab.outside.run(
        "sh",
        "-ec",
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo;"
        f"ip route add 127.0.0.1/32 via {HOST4} src {OUTSIDE4}",
    )
    with pytest.raises(TimeoutError):
        lab.outside.connect("127.0.0.1", 8080, timeout_s=0.5)


def test_a_port_on_one_address_of_the_host(lab: Lab, network: BuiltinNetwork) -> None:
    lab.shell("ip addr add 192.0.2.3/24 dev up0")
    one, two = lab.pod(), lab.pod()
    network.setup(ONE, one.path, port_mappings=[PortMapping(container_port=80, host_port=80, host_ip=HOST4)])
    network.setup(
        TWO, two.path, port_mappings=[PortMapping(container_port=80, host_port=80, host_ip="192.0.2.3")]
    )
    talk(lab.outside, HOST4, 80, one.listen("0.0.0.0", 80))
    talk(lab.outside, "192.0.2.3", 80, two.listen("0.0.0.0", 80))
    for host_ip in ("", "0.0.0.0"):
        with pytest.raises(AlreadyExists, match=r"sandbox 111111111111 has 192\.0\.2\.2:80/tcp"):
            network.setup(
                "3" * 64,
                lab.pod().path,
                port_mappings=[PortMapping(container_port=80, host_port=80, host_ip=host_ip)],
            )
    with pytest.raises(InvalidArgument, match="no such address"):
        network.setup(
            "3" * 64,
            lab.pod().path,
            port_mappings=[PortMapping(container_port=80, host_port=81, host_ip="192.0.2.99")],
        )
    assert len(network.attachments()) == 2


def test_pods_do_not_reach_what_listens_on_the_hosts_loopback(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    attached = network.setup(ONE, pod.path)
    server = lab.host.listen("127.0.0.1", 9000)
    talk(lab.host, "127.0.0.1", 9000, server)
    pod.run(
        "sh",
        "-ec",
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo;"
        f"ip route add 127.0.0.1/32 via {attached.gateways[0]} src {attached.address}",
    )
    with pytest.raises(TimeoutError):
        pod.connect("127.0.0.1", 9000, timeout_s=0.5)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::", HOST6])
def test_a_port_that_a_process_of_the_host_has_is_refused(
    lab: Lab, network: BuiltinNetwork, protocol: str, address: str
) -> None:
    if protocol == "tcp":
        lab.host.listen(address, 8080)
    else:
        lab.host.bind_udp(address, 8080)
    mapping = PortMapping(container_port=80, host_port=8080, protocol=protocol)  # type: ignore[arg-type]
    pod = lab.pod()
    with pytest.raises(AlreadyExists, match="a process on this host uses it"):
        network.setup(ONE, pod.path, port_mappings=[mapping])
    assert network.attachments() == []
    assert [link["ifname"] for link in pod.ip("link")] == ["lo"], "refused before anything was made"
    other: str = "udp" if protocol == "tcp" else "tcp"
    mapping = PortMapping(container_port=80, host_port=8080, protocol=other)  # type: ignore[arg-type]
    network.setup(ONE, pod.path, port_mappings=[mapping])


def test_a_port_of_another_sandbox_is_refused_until_that_is_gone(lab: Lab, network: BuiltinNetwork) -> None:
    wanted = [PortMapping(container_port=80, host_port=8080)]
    network.setup(ONE, lab.pod().path, port_mappings=wanted)
    network.setup(ONE, lab.pod().path, port_mappings=wanted)  # its own is no obstacle
    pod = lab.pod()
    with pytest.raises(AlreadyExists, match=r"publish port 0\.0\.0\.0:8080/tcp: sandbox 111111111111 has"):
        network.setup(TWO, pod.path, port_mappings=wanted)
    assert [attached.sandbox_id for attached in network.attachments()] == [ONE]
    network.teardown(ONE)
    network.setup(TWO, pod.path, port_mappings=wanted)
    talk(lab.outside, HOST4, 8080, pod.listen("0.0.0.0", 80))


def test_closed_connections_do_not_hold_the_port(lab: Lab, network: BuiltinNetwork) -> None:
    server = lab.host.listen("0.0.0.0", 8080)
    near = lab.outside.connect(HOST4, 8080)
    far, _ = server.accept()
    far.close()  # this side closes first and is left in TIME_WAIT
    assert near.recv(1) == b""
    near.close()
    server.close()
    network.setup(ONE, lab.pod().path, port_mappings=[PortMapping(container_port=80, host_port=8080)])


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        (PortMapping(container_port=0, host_port=80), InvalidArgument),
        (PortMapping(container_port=80, host_port=65536), InvalidArgument),
        (PortMapping(container_port=80, host_port=80, host_ip="localhost"), InvalidArgument),
        (PortMapping(container_port=80, host_port=80, host_ip="::1"), Unimplemented),
    ],
)
def test_requests_that_cannot_be_met_leave_nothing(
    lab: Lab, network: BuiltinNetwork, mapping: PortMapping, error: type[OakumError]
) -> None:
    with pytest.raises(error, match="publish port"):
        network.setup(ONE, lab.pod().path, port_mappings=[mapping])
    assert network.attachments() == []


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _sctp_init(source: int, target: int) -> bytes:
    """An INIT packet. Source: RFC 9260, 3.1 and 3.3.2."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x6F616B75, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source, target, 0)
    checksum = _crc32c(head + bytes(4) + chunk)
    return head + struct.pack("<I", checksum) + chunk


def test_a_published_sctp_port_leads_to_the_pod(lab: Lab, network: BuiltinNetwork) -> None:
    """Raw packets, since this must also run where the kernel has no SCTP sockets: forwarding needs none."""
    pod = lab.pod()
    mapping = PortMapping(container_port=38412, host_port=3000, protocol="sctp")
    attached = network.setup(ONE, pod.path, port_mappings=[mapping])
    assert published(lab, network, "any4") == [
        [{"concat": ["sctp", 3000]}, {"concat": [attached.address, 38412]}]
    ]
    receiver = pod.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    sender = lab.outside.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    sender.sendto(_sctp_init(40000, 3000), (HOST4, 0))
    packet, peer = receiver.recvfrom(2048)
    header_bytes = (packet[0] & 0x0F) * 4
    assert peer[0] == OUTSIDE4
    assert packet[header_bytes:] == _sctp_init(40000, 38412), (
        "port and checksum are rewritten, the rest is not"
    )


def test_sctp_sockets_talk_through_a_published_port(lab: Lab, network: BuiltinNetwork) -> None:
    pod: Place = lab.pod()
    try:
        server = pod.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        pytest.skip("kernel: CONFIG_IP_SCTP is not set")
    mapping = PortMapping(container_port=38412, host_port=3000, protocol="sctp")
    network.setup(ONE, pod.path, port_mappings=[mapping])
    server.bind(("0.0.0.0", 38412))
    server.listen(1)
    client = lab.outside.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    client.connect((HOST4, 3000))
    far, _ = server.accept()
    with far:
        client.sendall(b"ahoy")
        assert far.recv(16) == b"ahoy"
