# SPDX-License-Identifier: Apache-2.0
"""The text of a sandbox's hosts, resolv.conf and hostname. Reads the host's files, writes none.

Source: hosts(5), resolv.conf(5), hostname(5).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from oakum.errors import InvalidArgument

_HOST_RESOLV_CONF: Final = "/etc/resolv.conf"
# systemd-resolved gives programs of the host a server on loopback, and its real servers here.
_RESOLVED: Final = "/run/systemd/resolve/resolv.conf"
_HOST_HOSTS: Final = "/etc/hosts"
_LIMIT_BYTES: Final = 1 << 20
_WORD: Final = re.compile(r"[!-~]{1,255}", re.ASCII)
_STANDARD_HOSTS: Final = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class DnsRequest(Protocol):
    """What a resolv.conf shall say; what is empty is taken from the host."""

    @property
    def servers(self) -> Sequence[str]:
        """Addresses of name servers."""
        ...

    @property
    def searches(self) -> Sequence[str]:
        """Domains to search."""
        ...

    @property
    def options(self) -> Sequence[str]:
        """Resolver options such as ndots:5."""
        ...


class Resolver(NamedTuple):
    """The parts of a resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> Resolver:
    """The parts of a resolv.conf, as the resolver reads it: the last search line wins, options add up."""
    servers: list[str] = []
    options: list[str] = []
    searches: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or line[:1] in ("#", ";"):
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = tuple(words[1:] if words[0] == "search" else words[1:2])
        elif words[0] == "options":
            options += words[1:]
    return Resolver(tuple(servers), searches, tuple(options))


def render_resolv_conf(wanted: DnsRequest, host: Resolver, *, host_network: bool, server: str = "") -> str:
    """A sandbox's resolv.conf.

    A server of the host that only the host itself can reach (loopback, or bound to an interface) is left out unless
    the sandbox is on the host's network. A `server` of the sandbox's own, which knows its neighbours, is named instead of
    all others, which it asks itself (`upstreams`).

    Raises:
        InvalidArgument: a server that is no address, or a domain or option with blanks in it.
    """
    for address in wanted.servers:
        _check_address(address)
    for word in (*wanted.searches, *wanted.options):
        _check_word(word)
    servers = tuple(wanted.servers) or tuple(s for s in host.servers if host_network or reachable(s))
    searches = tuple(wanted.searches) or (() if wanted.servers else host.searches)
    options = tuple(wanted.options) or (() if wanted.servers else host.options)
    if server:
        servers = (server,)
        if not any(option.startswith("ndots:") for option in options):
            options = (
                *options,
                "ndots:0",
            )  # a neighbour's name is asked for before any domain is added to it
    lines = [f"nameserver {address}" for address in servers]
    if not servers:
        lines.append("# no name server of the host can be reached from here")
    if searches:
        lines.append("search " + " ".join(searches))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def choose_upstreams(wanted: DnsRequest, host: Resolver, *, from_host: bool) -> list[tuple[str, bool]]:
    """Whom a sandbox's own name server asks, and whether from the host's network: `render_resolv_conf`'s servers.

    Where the host has none but on its loopback, those; only if `from_host`, for they lead out of any network.

    Raises:
        InvalidArgument: as `render_resolv_conf`.
    """
    found = [_check_address(address) for address in wanted.servers] or list(filter(reachable, host.servers))
    if found or not from_host:
        return [(address, False) for address in found]
    return [(address, True) for address in host.servers if _is_loopback(address)]


def reachable(server: str) -> bool:
    """Whether a name server of the host can be reached from another network namespace."""
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return not (
        address.is_loopback or address.is_unspecified or (address.version == 6 and address.is_link_local)
    )


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server).is_loopback
    except ValueError:
        return False


def resolv_conf(wanted: DnsRequest, *, host_network: bool, server: str = "") -> str:
    """A sandbox's resolv.conf on this host. Raises InvalidArgument as `render_resolv_conf`."""
    host = parse_resolv_conf(_read(_HOST_RESOLV_CONF)) if host_network else _host_for_others()
    return render_resolv_conf(wanted, host, host_network=host_network, server=server)


def upstreams(wanted: DnsRequest, *, from_host: bool) -> list[tuple[str, bool]]:
    """`choose_upstreams` on this host, which raises the same."""
    return choose_upstreams(wanted, _host_for_others(), from_host=from_host)


def _host_for_others() -> Resolver:
    """The host's resolver, with servers that others can reach where there are such."""
    host = parse_resolv_conf(_read(_HOST_RESOLV_CONF))
    if host.servers and not any(reachable(server) for server in host.servers):
        real = parse_resolv_conf(_read(_RESOLVED)).servers
        return host._replace(servers=real or host.servers)
    return host


def render_hosts(
    hostname: str, addresses: Iterable[str], extra_hosts: Iterable[tuple[str, str]] = (), *, base: str = ""
) -> str:
    """A hosts file: `base` (the standard lines when empty), the sandbox's own name, and extra (name, address) pairs.

    Raises:
        InvalidArgument: a name with blanks in it, or an address that is none.
    """
    lines = [(base or _STANDARD_HOSTS).rstrip("\n")]
    for address in addresses:
        lines.append(f"{_check_address(address)}\t{_check_word(hostname)}")
    for name, address in extra_hosts:
        lines.append(f"{_check_address(address)}\t{_check_word(name)}")
    return "\n".join(lines) + "\n"


def hosts(
    hostname: str,
    addresses: Iterable[str],
    extra_hosts: Iterable[tuple[str, str]] = (),
    *,
    host_network: bool = False,
) -> str:
    """A sandbox's hosts file on this host: on the host's network it begins as the host's own does."""
    base = _read(_HOST_HOSTS) if host_network else ""
    return render_hosts(hostname, addresses, extra_hosts, base=base)


def hostname_file(hostname: str) -> str:
    """The text of a hostname file. Raises InvalidArgument for a name with blanks in it."""
    return f"{_check_word(hostname)}\n" if hostname else ""


def _check_address(text: str) -> str:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError as error:
        raise InvalidArgument("write name files", repr(text[:100]), "not an IP address") from error
    return _check_word(text)


def _check_word(text: str) -> str:
    # A line break would let whoever chose the word write lines of their own.
    if not _WORD.fullmatch(text):
        raise InvalidArgument(
            "write name files", repr(text[:100]), "blanks or unusual characters", hint="one word of ASCII"
        )
    return text


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # a host without the file: nothing to take from it
    with open(fd, encoding="utf-8", errors="replace") as file:
        return file.read(_LIMIT_BYTES)
