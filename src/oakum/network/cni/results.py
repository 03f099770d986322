# SPDX-License-Identifier: Apache-2.0
"""What a plugin answers: results, errors and versions. Pure functions; the answers are hostile.

A result is kept as the plugin wrote it, since the next plugin of the chain, CHECK and DEL have to get all of it back;
`summary` reads what the host itself needs. CNI specification, sections 3 and 5.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Final, Literal, NamedTuple, TypeGuard

from oakum.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OakumError,
    SystemFailure,
    Unavailable,
)
from oakum.network.cni.config import Json

UNKNOWN_CONTAINER: Final = 3
NOT_AVAILABLE: Final = frozenset({50, 51})
_TRY_LATER: Final = 11
_WORDS_LIMIT: Final = 1000

# Well-known codes, what they mean, and how callers of ours should take them.
_CODES: Final[dict[int, tuple[type[OakumError], str]]] = {
    1: (FailedPrecondition, "incompatible CNI version"),
    2: (FailedPrecondition, "unsupported field in the network configuration"),
    3: (NotFound, "container unknown"),
    4: (InvalidArgument, "invalid environment variables"),
    5: (SystemFailure, "input or output failed"),
    6: (FailedPrecondition, "content could not be decoded"),
    7: (FailedPrecondition, "invalid network configuration"),
    11: (Unavailable, "try again later"),
    50: (Unavailable, "the plugin is not available"),
    51: (Unavailable, "the plugin is not available and attached containers may have limited connectivity"),
}


Command = Literal["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]


class Call(NamedTuple):
    """Which call an answer belongs to."""

    command: Command
    plugin: str
    network: str

    @property
    def subject(self) -> str:
        """The plugin and its network."""
        return f"plugin {self.plugin} of network {self.network}"


class Fault(NamedTuple):
    """A plugin's error: its own code, or 0 where it gave none."""

    call: Call
    code: int
    message: str
    details: str = ""

    @property
    def meaning(self) -> str:
        """What a well-known code stands for; "" for a plugin's own."""
        return _CODES[self.code][1] if self.code in _CODES else ""

    def to_error(self) -> OakumError:
        """The same as an error of ours."""
        kind = _CODES[self.code][0] if self.code in _CODES else OakumError
        parts = [f"code {self.code}" if self.code else "", self.message or self.meaning, self.details]
        cause = ": ".join(part for part in parts if part)
        hint = "a retry may succeed" if self.code == _TRY_LATER else ""
        return kind(f"CNI {self.call.command}", self.call.subject, cause, hint=hint)


class Address(NamedTuple):
    """An address that a result gives; `owner` is an index into its interfaces, None where it says none."""

    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    gateway: str = ""
    owner: int | None = None


class Interface(NamedTuple):
    """A link that a result names; `sandbox` is empty for one of the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


class Summary(NamedTuple):
    """What the host reads in a result."""

    interfaces: tuple[Interface, ...] = ()
    addresses: tuple[Address, ...] = ()
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def of(self, name: str) -> tuple[Interface | None, tuple[Address, ...]]:
        """The sandbox's interface called `name`, and its addresses, IPv4 first.

        Addresses without an interface are the sandbox's: IPAM plugins know no interfaces.
        """
        inside = [index for index, each in enumerate(self.interfaces) if each.sandbox and each.name == name]
        own = [each for each in self.addresses if each.owner is None or each.owner in inside]
        own.sort(key=lambda each: each.interface.version)
        return (self.interfaces[inside[0]] if inside else None), tuple(own)

    def host_interface(self, name: str) -> str:
        """The host's end of the sandbox's interface `name`: the last that is listed before it; "" for none.

        Bridges come before it, and what later plugins of the chain add (a link for shaping) after it.
        """
        before = ""
        for each in self.interfaces:
            if each.sandbox and each.name == name:
                return before
            before = before if each.sandbox else each.name
        return ""


def parse_result(answer: bytes, call: Call, version: str) -> Json:
    """The result on standard output of a successful ADD, complete with its version.

    Raises:
        FailedPrecondition: it is none.
    """
    found = _load(answer)
    if not _is_object(found):
        raise _bad(call, "its result is no JSON object", answer)
    said = found.setdefault("cniVersion", version)
    if not isinstance(said, str):
        raise _bad(call, '"cniVersion" of its result is no text', answer)
    summary(found, call)
    return found


def summary(result: Json, call: Call) -> Summary:
    """What the host reads in a result. Raises FailedPrecondition."""
    interfaces: list[Interface] = []
    for each in _objects(result, "interfaces", call):
        name, mac, sandbox, mtu = (each.get(key) for key in ("name", "mac", "sandbox", "mtu"))
        if not all(isinstance(text, str | None) for text in (name, mac, sandbox)) or not isinstance(
            mtu, int | None
        ):
            raise _bad(call, "an interface of its result has a field of the wrong kind")
        interfaces.append(Interface(name or "", mac or "", sandbox or "", mtu or 0))
    addresses = [_address(each, len(interfaces), call) for each in _objects(result, "ips", call)]
    dns: object = result.get("dns") or Json()
    if not _is_object(dns):
        raise _bad(call, '"dns" of its result is no object')
    domain = dns.get("domain")
    searches = _texts(dns, "search", call) or ((domain,) if isinstance(domain, str) and domain else ())
    return Summary(
        tuple(interfaces),
        tuple(addresses),
        _texts(dns, "nameservers", call),
        searches,
        _texts(dns, "options", call),
    )


def _address(each: Json, interfaces: int, call: Call) -> Address:
    address, gateway, index = each.get("address"), each.get("gateway") or "", each.get("interface")
    try:
        if not isinstance(address, str) or not isinstance(gateway, str):
            raise TypeError("not text")
        interface = ipaddress.ip_interface(address)
        gateway = str(ipaddress.ip_address(gateway)) if gateway else ""
    except (TypeError, ValueError) as error:
        raise _bad(call, f"an address of its result is none: {str(error)[:200]}") from error
    # Some plugins write -1 for "none".
    if index == -1:
        index = None
    if index is not None and (not isinstance(index, int) or not 0 <= index < interfaces):
        raise _bad(call, "an address of its result belongs to an interface that it does not list")
    return Address(interface, gateway, index)


def parse_fault(status: int, answer: bytes, stderr: bytes, call: Call) -> Fault:
    """The error of a plugin that failed: from its JSON, else from whatever it wrote."""
    found = _load(answer)
    if _is_object(found):
        code, message, details = found.get("code"), found.get("msg"), found.get("details")
        if isinstance(code, int) and not isinstance(code, bool) and isinstance(message, str):
            return Fault(call, max(code, 0), _words(message), _words(details))
    how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
    said = _words(stderr.decode(errors="replace")) or _words(answer.decode(errors="replace"))
    return Fault(call, 0, f"{how} without an error in JSON", said)


def reports_error(answer: bytes) -> bool:
    """Whether an answer is an error object; some plugins write one and exit as if all were well."""
    found = _load(answer)
    return _is_object(found) and isinstance(found.get("code"), int) and found["code"] > 0 and "msg" in found


def parse_versions(answer: bytes, call: Call) -> tuple[str, ...]:
    """The versions that a plugin supports. Raises FailedPrecondition."""
    found = _load(answer)
    if not _is_object(found):
        raise _bad(call, "its versions are no JSON object", answer)
    return _texts(found, "supportedVersions", call)


def timed_out(call: Call, timeout_s: float) -> OakumError:
    """The error for a plugin that was killed because it did not end."""
    return Unavailable(
        f"CNI {call.command}",
        call.subject,
        f"did not end within {timeout_s:g} s and was killed",
        hint="its own log may say what it waits for",
    )


def without_addresses(call: Call, interface: str) -> OakumError:
    """The error for a network that attached a sandbox and gave it no address."""
    return FailedPrecondition(
        f"CNI {call.command}", f"network {call.network}", f"succeeded without an address for {interface}"
    )


def _bad(call: Call, why: str, answer: bytes | None = None) -> OakumError:
    said = "" if answer is None else _words(answer[:_WORDS_LIMIT].decode(errors="replace"))
    cause = why if answer is None else f"{why}: {said or 'it wrote nothing'}"
    return FailedPrecondition(f"CNI {call.command}", call.subject, cause)


def _load(answer: bytes) -> object:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _words(value: object) -> str:
    """Text from a plugin on one line, without what could steer a terminal."""
    if not isinstance(value, str):
        return ""
    flat = " ".join(value[: 4 * _WORDS_LIMIT].split())
    return "".join(c for c in flat if c.isprintable())[:_WORDS_LIMIT]


def _objects(found: Json, key: str, call: Call) -> list[Json]:
    value: object = found.get(key) or list[Any]()
    if not _is_list(value) or not all(_is_object(each) for each in value):
        raise _bad(call, f'"{key}" of its result is no list of objects')
    return value


def _texts(found: Json, key: str, call: Call) -> tuple[str, ...]:
    value: object = found.get(key) or list[Any]()
    if not _is_list(value) or not all(isinstance(each, str) for each in value):
        raise _bad(call, f'"{key}" is no list of texts')
    return tuple(value)


def _is_object(value: object) -> TypeGuard[Json]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
