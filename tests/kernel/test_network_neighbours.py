# SPDX-License-Identifier: Apache-2.0
"""Pods beside firewalld's and kube-proxy's rules: theirs do what they did, ours do too, and nobody's are changed.

The rules are those that both programs make, cut down to one zone and one service. Docker's are in `test_network_rules`.
"""

from __future__ import annotations

import pytest

from oakum.backend.config import PortMapping
from oakum.network.builtin import BuiltinNetwork
from tests.kernel.test_network_pods import ONE, TWO, talk
from tests.support import network_fixtures
from tests.support.netlab import HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab

PORT = PortMapping(container_port=80, host_port=8080)
SERVICE = "10.96.0.10"

_FIREWALLD = """
table inet firewalld {
    chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
    chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        meta l4proto { icmp, ipv6-icmp } accept
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_ZONES { }
}
"""

# kube-proxy with iptables: one service with a cluster address and a node port, one endpoint.
_KUBE_IPTABLES = """
iptables -t nat -N KUBE-MARK-MASQ
iptables -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
iptables -t nat -N KUBE-POSTROUTING
iptables -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
iptables -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
iptables -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully
iptables -t nat -A POSTROUTING -j KUBE-POSTROUTING
iptables -t nat -N KUBE-SEP-A
iptables -t nat -A KUBE-SEP-A -s {pod}/32 -j KUBE-MARK-MASQ
iptables -t nat -A KUBE-SEP-A -p tcp -j DNAT --to-destination {pod}:80
iptables -t nat -N KUBE-EXT-A
iptables -t nat -A KUBE-EXT-A -j KUBE-MARK-MASQ
iptables -t nat -A KUBE-EXT-A -j KUBE-SEP-A
iptables -t nat -N KUBE-SERVICES
iptables -t nat -A KUBE-SERVICES -d {service}/32 -p tcp --dport 80 -j KUBE-SEP-A
iptables -t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -p tcp --dport 30080 -j KUBE-EXT-A
iptables -t nat -A PREROUTING -j KUBE-SERVICES
iptables -t nat -A OUTPUT -j KUBE-SERVICES
iptables -N KUBE-FORWARD
iptables -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
iptables -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
iptables -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -j KUBE-FORWARD
"""

# The same with nftables.
_KUBE_NFTABLES = """
nft -f - <<'END'
table ip kube-proxy {{
    chain service-A {{ meta l4proto tcp dnat to {pod}:80; }}
    chain external-A {{ meta mark set meta mark or 0x4000; goto service-A; }}
    map service-ips {{
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = {{ {service} . tcp . 80 : goto service-A }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict
        elements = {{ tcp . 30080 : goto external-A }}
    }}
    chain services {{
        ip daddr . meta l4proto . th dport vmap @service-ips
        fib daddr type local meta l4proto . th dport vmap @service-nodeports
    }}
    chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
    chain nat-output {{ type nat hook output priority -100; jump services; }}
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat
        meta mark & 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }}
}}
END
"""


lab = network_fixtures.lab
network = network_fixtures.network


def others(lab: Lab) -> str:
    """Every table but ours, without counters."""
    tables = [each["table"] for each in lab.nft("tables")]
    names = [f"{table['family']} {table['name']}" for table in tables if table["name"] != "oakum-test"]
    nft = "".join(lab.shell(f"nft -s list table {name}") for name in sorted(names))
    return nft + lab.shell("iptables-legacy -S; iptables-legacy -t nat -S")


def live_through(lab: Lab, network: BuiltinNetwork, before: str) -> None:
    """All that we do to rules, with pods one and two attached: others' are as before all the time."""
    whole = lab.shell("nft -s list table inet oakum-test")
    for damage in ("nft flush table inet oakum-test", "nft delete table inet oakum-test"):
        lab.shell(damage)
        network.gc([ONE, TWO])
        assert lab.shell("nft -s list table inet oakum-test") == whole
        assert others(lab) == before
    network.create_network("back", subnets=["10.9.0.0/24"])
    assert others(lab) == before
    network.remove_network("back")
    network.teardown(TWO)
    network.teardown(ONE)
    assert others(lab) == before
    network.remove_network()
    assert others(lab) == before
    assert "oakum" not in lab.shell("nft list tables")


def test_beside_firewalld(lab: Lab, network: BuiltinNetwork) -> None:
    lab.shell(f"nft -f - <<'END'\n{_FIREWALLD}END")
    before = others(lab)
    pods = [lab.pod(), lab.pod()]
    network.setup(ONE, pods[0].path, port_mappings=[PORT])
    two = network.setup(TWO, pods[1].path)
    server = pods[0].listen("::", 80)
    assert talk(lab.outside, HOST4, 8080, server).endswith(OUTSIDE4)
    assert talk(lab.outside, HOST6, 8080, server) == OUTSIDE6
    assert talk(pods[1], HOST4, 8080, server).endswith(two.gateways[0])
    # What nobody has put into a zone firewalld stops, and that is said with the way out.
    outside = lab.outside.listen(OUTSIDE4, 7000)
    with pytest.raises(OSError, match=r"No route to host|Permission denied"):
        pods[0].connect(OUTSIDE4, 7000)
    (warning,) = network.warnings()
    assert "chain inet firewalld filter_FORWARD stops forwarded packets" in warning
    assert f"firewall-cmd --zone=trusted --add-interface={network.bridge}" in warning
    assert others(lab) == before
    # What the command does:
    lab.shell(f"nft add rule inet firewalld filter_FORWARD_ZONES iifname {network.bridge} accept")
    assert network.warnings() == []
    assert talk(pods[0], OUTSIDE4, 7000, outside) == HOST4
    assert talk(pods[0], OUTSIDE6, 7000, lab.outside.listen(OUTSIDE6, 7000)) == HOST6
    live_through(lab, network, others(lab))


@pytest.mark.parametrize("kind", ["iptables-nft", "iptables-legacy", "nftables"])
def test_beside_kube_proxy(lab: Lab, network: BuiltinNetwork, kind: str) -> None:
    pods = [lab.pod(), lab.pod()]
    one = network.setup(ONE, pods[0].path, port_mappings=[PORT])
    rules = _KUBE_NFTABLES if kind == "nftables" else _KUBE_IPTABLES.replace("iptables ", f"{kind} ")
    lab.shell(rules.format(pod=one.address, service=SERVICE))
    before = others(lab)
    network.setup(TWO, pods[1].path, port_mappings=[PortMapping(container_port=80, host_port=8081)])
    server = pods[0].listen("0.0.0.0", 80)

    def all_ways() -> None:
        for client in (lab.host, *pods):
            talk(client, SERVICE, 80, server)
            talk(client, HOST4, 30080, server)
            talk(client, HOST4, 8080, server)
        talk(lab.outside, HOST4, 30080, server)
        assert talk(lab.outside, HOST4, 8080, server) == OUTSIDE4
        assert talk(pods[0], OUTSIDE4, 7000, outside) == HOST4

    outside = lab.outside.listen(OUTSIDE4, 7000)
    all_ways()
    lab.shell("nft flush table inet oakum-test")
    network.gc([ONE, TWO])
    all_ways()
    assert network.warnings() == []
    live_through(lab, network, before)
