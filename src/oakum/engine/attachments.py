# SPDX-License-Identifier: Apache-2.0
"""What a sandbox's configuration asks of its network, and what its network says about name resolution. Pure.

Rates come in the annotations that Kubernetes has for them, as its quantities; an address and a MAC of one's choice in
annotations of ours.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

import msgspec

from oakum.backend.config import DnsConfig, SandboxConfig
from oakum.errors import InvalidArgument
from oakum.network.attachment import Attachment, AttachmentOptions

INGRESS: Final = "kubernetes.io/ingress-bandwidth"
EGRESS: Final = "kubernetes.io/egress-bandwidth"
ADDRESS: Final = "dev.oakum.ip"
MAC: Final = "dev.oakum.mac"
NONE: Final = "none"
"""A network of this name is none: the pod has its own namespace with loopback alone."""

# Kubernetes' quantities: a decimal number and at most one suffix.
_QUANTITY: Final = re.compile(r"(\d{1,20}(?:\.\d{0,9})?|\.\d{1,9})([a-zA-Z]{0,2}|[eE][+-]?\d{1,2})", re.ASCII)
_SUFFIXES: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}
# What Kubernetes takes for a rate.
_LEAST_BITS, _MOST_BITS = 1000, 10**15


def attachment_options(config: SandboxConfig, cgroup_path: str) -> AttachmentOptions:
    """What the network is to be told of a sandbox. Raises InvalidArgument for a rate that is none."""
    annotations = config.annotations
    metadata = config.metadata
    return AttachmentOptions(
        addresses=tuple(filter(None, annotations.get(ADDRESS, "").split(","))),
        mac=annotations.get(MAC, ""),
        ingress_bits_per_s=_rate(annotations, INGRESS),
        egress_bits_per_s=_rate(annotations, EGRESS),
        dns_servers=config.dns.servers,
        dns_searches=config.dns.searches,
        dns_options=config.dns.options,
        # A container's own sandbox is no pod, and its name may be any.
        pod_name="" if config.owner else metadata.name,
        pod_namespace=metadata.namespace,
        pod_uid=metadata.uid,
        annotations=annotations,
        cgroup_path=cgroup_path,
    )


def with_dns_of(config: SandboxConfig, attachment: Attachment | None) -> SandboxConfig:
    """The configuration with its network's name servers where it names none itself."""
    if attachment is None or not attachment.dns_servers or config.dns != DnsConfig():
        return config
    dns = DnsConfig(
        servers=attachment.dns_servers, searches=attachment.dns_searches, options=attachment.dns_options
    )
    return msgspec.structs.replace(config, dns=dns)


def _rate(annotations: dict[str, str], key: str) -> int:
    return parse_rate(annotations[key], key) if key in annotations else 0


def parse_rate(text: str, subject: str) -> int:
    """Bits a second from a quantity such as 10M.

    Raises:
        InvalidArgument: it is none, or not between 1k and 1P.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidArgument("limit bandwidth", subject, f"{text[:40]!r} is no quantity", hint="such as 10M")
    number, suffix = match.groups()
    if suffix in _SUFFIXES:
        value = Decimal(number) * _SUFFIXES[suffix]
    elif suffix[:1] in "eE" and suffix[1:]:
        value = Decimal(number) * Decimal(10) ** int(suffix[1:])
    else:
        raise InvalidArgument("limit bandwidth", subject, f"no unit {suffix!r}", hint="k, M, G, Ki, Mi, Gi …")
    if not _LEAST_BITS <= value <= _MOST_BITS:
        raise InvalidArgument("limit bandwidth", subject, f"{text[:40]} is not between 1k and 1P")
    return int(value)
