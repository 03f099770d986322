# SPDX-License-Identifier: Apache-2.0
"""What a sandbox's annotations ask of its network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.backend.config import DnsConfig, SandboxConfig, SandboxMetadata
from oakum.engine.attachments import attachment_options, parse_rate, with_dns_of
from oakum.errors import InvalidArgument
from oakum.network.attachment import Attachment

METADATA = SandboxMetadata(name="web", namespace="shop", uid="u")
ATTACHMENT = Attachment("1", "n", "/n", "v", ("10.0.0.2",), (24,), ("10.0.0.1",), "", 0)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("1k", 1000),
        ("10M", 10_000_000),
        ("1.5G", 1_500_000_000),
        ("2Ki", 2048),
        ("1e6", 1_000_000),
        ("12E2", 1200),
        ("5000000m", 5000),
        ("1P", 10**15),
    ],
)
def test_rates_are_kubernetes_quantities(text: str, bits: int) -> None:
    assert parse_rate(text, "a") == bits


@pytest.mark.parametrize(
    "text", ["", "quick", "-1M", "1", "999", "2P", "1e99", "1 M", "0x10", "10Q", "10Mi1", "٣M"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="limit bandwidth"):
        parse_rate(text, "a")


@given(st.text(max_size=12))
def test_any_text_is_a_rate_or_refused(text: str) -> None:
    try:
        bits = parse_rate(text, "a")
    except InvalidArgument:
        return
    assert 1000 <= bits <= 10**15


def test_a_pod_is_named_to_its_network_and_a_container_is_not() -> None:
    annotations = {
        "kubernetes.io/ingress-bandwidth": "10M",
        "dev.oakum.ip": "10.0.0.5,fd00::5",
        "dev.oakum.mac": "02:00:00:00:00:05",
    }
    dns = DnsConfig(servers=("10.0.0.10",))
    config = SandboxConfig(metadata=METADATA, annotations=annotations, dns=dns)
    options = attachment_options(config, "/kubepods/u")
    assert (options.pod_name, options.pod_namespace, options.pod_uid) == ("web", "shop", "u")
    assert (options.ingress_bits_per_s, options.egress_bits_per_s) == (10_000_000, 0)
    assert options.addresses == ("10.0.0.5", "fd00::5")
    assert options.mac == "02:00:00:00:00:05"
    assert options.dns_servers == ("10.0.0.10",)
    assert options.cgroup_path == "/kubepods/u"
    assert attachment_options(SandboxConfig(metadata=METADATA, owner="container"), "").pod_name == ""


def test_a_networks_name_servers_count_where_nobody_names_others() -> None:
    config = SandboxConfig(metadata=METADATA)
    named = ATTACHMENT._replace(dns_servers=("10.0.0.1",), dns_searches=("net",), dns_options=("ndots:2",))
    assert with_dns_of(config, None) is config
    assert with_dns_of(config, ATTACHMENT) is config
    assert with_dns_of(config, named).dns == DnsConfig(
        servers=("10.0.0.1",), searches=("net",), options=("ndots:2",)
    )
    own = SandboxConfig(metadata=METADATA, dns=DnsConfig(servers=("9.9.9.9",)))
    assert with_dns_of(own, named) is own
