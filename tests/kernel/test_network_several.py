# SPDX-License-Identifier: Apache-2.0
"""Several built-in networks on one host: apart from each other, each with its own pool, and what one may ask of them."""

from __future__ import annotations

import contextlib
import select
import time
from pathlib import Path

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from oakum.network.attachment import Attachment, AttachmentOptions
from oakum.network.builtin import BuiltinNetwork
from tests.support import network_fixtures
from tests.support.netlab import HOST4, OUTSIDE4, Lab, Place

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


lab = network_fixtures.lab
network = network_fixtures.network


def attach(
    lab: Lab, network: BuiltinNetwork, sandbox_id: str, name: str, **more: object
) -> tuple[Place, Attachment]:
    pod = lab.pod()
    return pod, network.setup(sandbox_id, pod.path, network=name, **more)  # type: ignore[arg-type]


def reaches(client: Place, address: str, server: Place, port: int = 80, *, within_s: float = 5.0) -> bool:
    """Patient: what is sent in the moment when a link comes up may be lost, and neighbours ask again after a second."""
    listener = server.listen("::" if ":" in address else "0.0.0.0", port)
    try:
        client.connect(address, port, timeout_s=within_s).close()
    except OSError:
        return False
    finally:
        listener.close()
    return True


def cut_off(client: Place, address: str, server: Place) -> bool:
    return not reaches(client, address, server, within_s=0.5)


def test_networks_are_apart_from_each_other_in_both_families(lab: Lab, network: BuiltinNetwork) -> None:
    network.create_network("front")
    network.create_network("back")
    (one, a), (two, b), (three, c) = (
        attach(lab, network, ONE, "front"),
        attach(lab, network, TWO, "front"),
        attach(lab, network, THREE, "back"),
    )
    assert len({a.host_interface, b.host_interface, c.host_interface}) == 3
    for family in (0, 1):
        assert reaches(one, b.addresses[family], two)
        assert reaches(lab.host, c.addresses[family], three)
        assert cut_off(one, c.addresses[family], three)
        assert cut_off(three, a.addresses[family], one)
    assert reaches(one, OUTSIDE4, lab.outside)
    assert reaches(three, OUTSIDE4, lab.outside)


def test_published_ports_lead_from_one_network_to_another(lab: Lab, network: BuiltinNetwork) -> None:
    network.create_network("front")
    network.create_network("back")
    one, _ = attach(lab, network, ONE, "front")
    two, _ = attach(lab, network, TWO, "back", port_mappings=[PortMapping(container_port=80, host_port=8080)])
    listener = two.listen("0.0.0.0", 80)
    one.connect(HOST4, 8080).close()
    lab.outside.connect(HOST4, 8080).close()
    listener.close()


def test_an_internal_network_has_no_way_out_and_none_in(lab: Lab, network: BuiltinNetwork) -> None:
    info = network.create_network("vault", internal=True)
    assert info.internal
    network.create_network("front")
    lab.outside.run("ip", "route", "add", info.subnets[0], "via", HOST4)
    (one, a), (two, _), (three, _) = (
        attach(lab, network, ONE, "vault"),
        attach(lab, network, TWO, "vault"),
        attach(lab, network, THREE, "front"),
    )
    assert reaches(two, a.address, one)
    assert reaches(lab.host, a.address, one)
    assert cut_off(one, OUTSIDE4, lab.outside)
    assert cut_off(lab.outside, a.address, one)
    assert cut_off(three, a.address, one)


def test_a_network_has_the_subnets_and_mtu_that_were_asked_for(lab: Lab, network: BuiltinNetwork) -> None:
    info = network.create_network("own", subnets=["10.9.0.0/24", "fd00:9::/64"], mtu=1400)
    assert info.subnets == ("10.9.0.0/24", "fd00:9::/64")
    assert info.gateways == ("10.9.0.1", "fd00:9::1")
    assert (info.mtu, info.attached) == (1400, ())
    pod, attached = attach(lab, network, ONE, "own")
    assert attached.addresses == ("10.9.0.2", "fd00:9::2")
    assert pod.ip("link", "show", "eth0")[0]["mtu"] == attached.mtu == 1400
    (_, own) = network.list_networks()
    assert own.attached == (ONE,)


def test_what_cannot_be_a_network_is_refused(lab: Lab, network: BuiltinNetwork) -> None:
    network.create_network("own", subnets=["10.9.0.0/24"])
    with pytest.raises(AlreadyExists, match="it is there"):
        network.create_network("own")
    with pytest.raises(AlreadyExists, match="uses addresses of it"):
        network.create_network("other", subnets=["10.9.0.0/16"])
    with pytest.raises(AlreadyExists, match="uses addresses of it"):
        network.create_network("other", subnets=[f"{HOST4}/32".replace(".2/32", ".0/24")])
    with pytest.raises(InvalidArgument, match="IPv6 needs an MTU of 1280"):
        network.create_network("small", mtu=1000)
    with pytest.raises(InvalidArgument, match="smaller than"):
        network.create_network("six", subnets=["fd00:9::/124"])
    for name in ("host", "none", "", "a b", "../x", "a" * 64):
        with pytest.raises(InvalidArgument, match="not a name"):
            network.create_network(name)
    with pytest.raises(NotFound, match="no such network"):
        network.setup(ONE, lab.pod().path, network="nowhere")
    assert [info.name for info in network.list_networks()] == ["default", "own"]


def test_pools_are_separate_and_say_when_they_are_exhausted(lab: Lab, network: BuiltinNetwork) -> None:
    network.create_network("tiny", subnets=["10.9.0.0/30"])
    network.create_network("other", subnets=["10.8.0.0/30"])
    attach(lab, network, ONE, "tiny")
    attach(lab, network, TWO, "other")
    with pytest.raises(ResourceExhausted, match="all 1 addresses"):
        attach(lab, network, THREE, "tiny")
    network.teardown(ONE)
    _, attached = attach(lab, network, THREE, "tiny")
    assert attached.address == "10.9.0.2"


def test_an_address_and_a_mac_of_ones_choice(lab: Lab, network: BuiltinNetwork) -> None:
    network.create_network("own", subnets=["10.9.0.0/24", "fd00:9::/64"])
    options = AttachmentOptions(addresses=("10.9.0.77",), mac="02:00:00:00:00:7A")
    pod, attached = attach(lab, network, ONE, "own", options=options)
    assert attached.addresses == ("10.9.0.77", "fd00:9::4d")
    assert pod.ip("link", "show", "eth0")[0]["address"] == attached.mac == "02:00:00:00:00:7a"
    assert reaches(lab.host, "10.9.0.77", pod)
    assert network.setup(ONE, pod.path, network="own", options=options) == attached
    with pytest.raises(AlreadyExists, match=r"assign address 10\.9\.0\.77: sandbox 111111111111 has it"):
        attach(lab, network, TWO, "own", options=AttachmentOptions(addresses=("10.9.0.77",)))
    with pytest.raises(FailedPrecondition, match="attached with another address"):
        network.setup(ONE, pod.path, network="own", options=AttachmentOptions(addresses=("10.9.0.78",)))
    for address in ("10.9.0.0", "10.9.0.1", "10.9.0.255", "10.10.0.5", "fd00:a::5", "nine"):
        with pytest.raises(InvalidArgument, match="assign address"):
            attach(lab, network, TWO, "own", options=AttachmentOptions(addresses=(address,)))
    for mac in ("01:00:00:00:00:01", "02:00", "00:00:00:00:00:00"):
        with pytest.raises(InvalidArgument, match="assign MAC"):
            attach(lab, network, TWO, "own", options=AttachmentOptions(mac=mac))
    network.teardown(ONE)
    _, again = attach(lab, network, TWO, "own", options=AttachmentOptions(addresses=("10.9.0.77",)))
    assert again.address == "10.9.0.77"


def test_rates_are_limited_in_each_direction(lab: Lab, network: BuiltinNetwork) -> None:
    options = AttachmentOptions(ingress_bits_per_s=16_000_000, egress_bits_per_s=32_000_000)
    pod, attached = attach(lab, network, ONE, "default", options=options)
    assert "tbf" in (said := lab.shell(f"tc qdisc show dev {attached.host_interface}"))
    assert "rate 16Mbit" in said
    assert "rate 32Mbit" in pod.run("tc", "qdisc", "show", "dev", "eth0")
    # A busy machine may be slower than the limit, never faster.
    assert 1e6 < rate(lab.host, attached.address, pod, receiving=False) < 20e6
    assert 1e6 < rate(lab.host, attached.address, pod, receiving=True) < 40e6
    network.setup(ONE, pod.path)
    assert "tbf" not in lab.shell(f"tc qdisc show dev {attached.host_interface}")
    assert "tbf" not in pod.run("tc", "qdisc", "show", "dev", "eth0")


def rate(client: Place, address: str, server: Place, *, receiving: bool) -> float:
    """Bits a second over some 700 ms, after the bucket is empty."""
    listener = server.listen("0.0.0.0", 5001)
    near = client.connect(address, 5001)
    far, _ = listener.accept()
    sender, receiver = (far, near) if receiving else (near, far)
    with listener, near, far:
        for each in (sender, receiver):
            each.setblocking(False)
        moved, began = 0, time.monotonic()
        while (passed := time.monotonic() - began) < 1.0:
            select.select([receiver], [sender], [], 0.1)
            with contextlib.suppress(BlockingIOError):
                sender.send(bytes(1 << 16))
            with contextlib.suppress(BlockingIOError):
                count = len(receiver.recv(1 << 20))
                moved += count if passed > 0.3 else 0
        return moved * 8 / (time.monotonic() - began - 0.3)


def test_a_network_goes_when_nothing_is_attached_and_takes_its_rules_along(
    lab: Lab, network: BuiltinNetwork
) -> None:
    info = network.create_network("own")
    pod, attached = attach(lab, network, ONE, "own")
    attach(lab, network, TWO, "default")
    with pytest.raises(FailedPrecondition, match="sandbox 111111111111 is attached"):
        network.remove_network("own")
    network.teardown(ONE)
    pod.close()
    network.remove_network("own")
    network.remove_network("own")
    assert info.bridge not in {link["ifname"] for link in lab.ip("link")}
    assert info.bridge not in lab.shell("nft list ruleset")
    assert network.bridge in lab.shell("nft list ruleset")
    assert attached.host_interface not in {link["ifname"] for link in lab.ip("link")}


def test_networks_come_back_after_a_reboot_as_they_were_made(
    lab: Lab, network: BuiltinNetwork, tmp_path: Path
) -> None:
    info = network.create_network("own", subnets=["10.9.0.0/24"], mtu=1300, internal=True)
    lab.shell(f"ip link delete {info.bridge}; nft flush ruleset")
    other = BuiltinNetwork(str(tmp_path / "network.db"), name_suffix="test")
    pod, attached = attach(lab, other, ONE, "own")
    assert (attached.address, attached.mtu) == ("10.9.0.2", 1300)
    assert cut_off(pod, OUTSIDE4, lab.outside)
    assert reaches(lab.host, attached.address, pod)
    other.teardown(ONE)
    lab.shell(f"ip link delete {info.bridge}; ip route add 10.9.0.0/16 dev up0")
    with pytest.raises(FailedPrecondition, match=r"the host has another route to 10\.9\.0\.0/24 now"):
        attach(lab, other, ONE, "own")
    other.close()


def test_rules_between_networks_are_restored_when_somebody_flushes_them(
    lab: Lab, network: BuiltinNetwork
) -> None:
    network.create_network("front")
    network.create_network("back")
    one, _ = attach(lab, network, ONE, "front")
    two, b = attach(lab, network, TWO, "back")
    lab.shell("nft flush ruleset")
    assert reaches(one, b.address, two)
    network.gc([ONE, TWO])
    assert cut_off(one, b.address, two)
