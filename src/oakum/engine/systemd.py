# SPDX-License-Identifier: Apache-2.0
"""Telling systemd of containers: a transient scope around a group that is there, its limits, and its end.

systemd wants to be the one who writes to its slices. The runtime makes the group and its first process; then the scope is
started with that process in it, and systemd takes the group over with the limits that it is told. Loaded only for the
systemd driver. The D-Bus messages are jeepney's; the sockets are here, for systemd's own one needs no bus.
Source: org.freedesktop.systemd1(5), systemd.resource-control(5), systemd.scope(5).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

from jeepney import auth, bus_messages, low_level, wrappers  # pyright: ignore[reportMissingTypeStubs] - it ships none

from oakum.errors import DeadlineExceeded, SystemFailure, Unavailable
from oakum.oci.cgroups.values import io_weight_of_blkio, swap_of, weight_of_shares
from oakum.oci.spec import LinuxResources

# It says nothing of its types.
_low: Any = low_level
_wrappers: Any = wrappers
_auth: Any = auth
_bus: Any = bus_messages
_PRIVATE: Final = "/run/systemd/private"
_SYSTEM_BUS: Final = "/run/dbus/system_bus_socket"
_TIMEOUT_S: Final = 30.0
_MANAGER: Final[Any] = _wrappers.DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)
_PEER: Final[Any] = _wrappers.DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.DBus.Peer"
)
_NUDGE_S: Final = 0.05
_INFINITY: Final = (1 << 64) - 1
_USEC: Final = 1_000_000
_QUOTA_STEP_US: Final = 10_000  # systemd keeps quotas in hundredths of a CPU
_RUNTIME: Final = True  # until the next boot
_GONE: Final = ("org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.NoSuchProcess")

# a property's name and its value with the D-Bus signature
Property = tuple[str, tuple[str, Any]]


def unit_of(cgroup_path: str) -> tuple[str, str]:
    """The unit and its slice for a group's path ("/a.slice/a-b.slice/x.scope"); unit "" when systemd has none there."""
    *parents, name = cgroup_path.strip("/").split("/")
    if not name.endswith((".scope", ".slice")) or not all(parent.endswith(".slice") for parent in parents):
        return "", ""
    return name, parents[-1] if parents else "-.slice"


def unit_properties(resources: LinuxResources, *, pure_v2: bool) -> list[Property]:
    """The limits that systemd has properties for. Pure. Raises InvalidArgument."""
    memory: dict[str, Any] = resources.get("memory") or {}
    cpu: dict[str, Any] = resources.get("cpu") or {}
    block: dict[str, Any] = resources.get("blockIO") or {}
    found: list[tuple[str, int | None]] = []
    if pure_v2:
        swap = swap_of(memory)
        found += [
            ("MemoryMax", memory.get("limit") or None),
            ("MemoryLow", memory.get("reservation") or None),
            ("MemorySwapMax", swap),
            ("CPUWeight", weight_of_shares(cpu["shares"]) if cpu.get("shares") else None),
            ("IOWeight", io_weight_of_blkio(block["weight"]) if block.get("weight") else None),
        ]
    else:
        found += [
            ("MemoryLimit", memory.get("limit") or None),
            ("CPUShares", cpu.get("shares") or None),
            ("BlockIOWeight", block.get("weight") or None),
        ]
    found.append(("TasksMax", (resources.get("pids") or {}).get("limit") or None))
    quota, period_us = cpu.get("quota"), cpu.get("period") or 100_000
    if quota:
        per_second = -1 if quota < 0 else -(-quota * _USEC // period_us // _QUOTA_STEP_US) * _QUOTA_STEP_US
        found.append(("CPUQuotaPerSecUSec", per_second))
    if cpu.get("period"):
        found.append(("CPUQuotaPeriodUSec", period_us))
    properties: list[Property] = [
        (name, ("t", _INFINITY if value < 0 else value)) for name, value in found if value is not None
    ]
    if pure_v2:
        for member, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
            if cpu.get(member):
                properties.append((name, ("ay", _bits(str(cpu[member])))))
    return properties


def _bits(text: str) -> bytes:
    from oakum.oci.tuning import parse_list  # only for those who choose CPUs

    numbers = parse_list(text, "$.linux.resources.cpu")
    return sum(1 << number for number in numbers).to_bytes(max(numbers, default=0) // 8 + 1, "little")


def adopt(cgroup_path: str, pid: int, resources: LinuxResources, *, pure_v2: bool, description: str) -> None:
    """Have systemd take over the group at `cgroup_path` with the process in it.

    Raises:
        SystemFailure: it refuses.
        Unavailable: there is no systemd to talk to.
        DeadlineExceeded: it does not answer.
    """
    unit, parent = unit_of(cgroup_path)
    if not unit:
        return
    properties: list[Property] = [
        ("Description", ("s", description)),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        *((f"{kind}Accounting", ("b", True)) for kind in ("CPU", "Memory", "Tasks", "IO")),
        *unit_properties(resources, pure_v2=pure_v2),
    ]
    if unit.endswith(".scope"):
        properties += [("PIDs", ("au", [pid])), ("Slice", ("s", parent))]
    else:
        properties += [("Wants", ("as", [parent]))]
    with _connected() as manager:
        manager.job("start", unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, [])


def change(cgroup_path: str, resources: LinuxResources, *, pure_v2: bool) -> None:
    """Tell systemd of new limits, lest it sets the old ones again. Raises as `adopt`."""
    unit, _ = unit_of(cgroup_path)
    properties = unit_properties(resources, pure_v2=pure_v2)
    if unit and properties:
        with _connected() as manager:
            manager.call("change", unit, "SetUnitProperties", "sba(sv)", unit, _RUNTIME, properties)


def release(cgroup_path: str) -> None:
    """The group is gone: the unit too; one that systemd has forgotten is fine. Raises as `adopt`."""
    unit, _ = unit_of(cgroup_path)
    if unit:
        with _connected() as manager:
            manager.job("stop", unit, "StopUnit", "ss", unit, "replace", tolerated=_GONE)


@contextmanager
def _connected() -> Generator[_Manager]:
    direct = os.geteuid() == 0 and os.path.exists(_PRIVATE)
    path = _PRIVATE if direct else _SYSTEM_BUS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.settimeout(_TIMEOUT_S)
            sock.connect(path)
            _authenticate(sock)
        except (OSError, ValueError) as failure:
            raise Unavailable(
                "connect to systemd", path, str(failure), hint="is it this machine's init?"
            ) from failure
        manager = _Manager(sock)
        if direct:
            manager.wake()
        else:
            manager.ask("greet", "bus", _bus.message_bus.Hello())
        yield manager


def _authenticate(sock: socket.socket) -> None:
    authenticator = _auth.Authenticator(inc_null_byte=True)
    for data in authenticator:
        sock.sendall(data)
        answer = sock.recv(1024)
        if not answer:
            raise ConnectionResetError("the connection was closed")
        authenticator.feed(answer)
    sock.sendall(_auth.BEGIN)


class _Manager:
    """One connection to systemd."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._parser, self._serial = sock, _low.Parser(), 0
        self._ended: dict[str, str] = {}

    def wake(self) -> None:
        """Have it answer at all.

        A message that systemd's own socket has taken in together with the end of the greeting lies there until more comes
        (sd-bus waits for the socket, not for its buffer), so it is asked until it says something.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            self._serial += 1
            self._socket.sendall(_wrappers.new_method_call(_PEER, "Ping").serialise(serial=self._serial))
            try:
                self._receive("reach", "the manager", time.monotonic() + _NUDGE_S)
                return
            except DeadlineExceeded:
                if time.monotonic() > deadline:
                    raise

    def job(
        self,
        verb: str,
        unit: str,
        method: str,
        signature: str,
        *body: Any,
        tolerated: tuple[str, ...] = (),
    ) -> None:
        """Call a method that makes a job, and wait for the job."""
        # Signals come only to who has subscribed.
        self.call("subscribe to", unit, "Subscribe", "")
        reply = self.call(verb, unit, method, signature, *body, tolerated=tolerated)
        if reply is None:
            return
        deadline = time.monotonic() + _TIMEOUT_S
        while reply[0] not in self._ended:
            self._receive(verb, unit, deadline)
        if (result := self._ended[reply[0]]) != "done":
            raise SystemFailure(f"{verb} unit", unit, f"systemd's job ended as {result!r}")

    def call(
        self,
        verb: str,
        unit: str,
        method: str,
        signature: str,
        *body: Any,
        tolerated: tuple[str, ...] = (),
    ) -> tuple[Any, ...] | None:
        """Call a method of the manager; None for a tolerated error."""
        message = _wrappers.new_method_call(_MANAGER, method, signature or None, body)
        return self.ask(verb, unit, message, tolerated)

    def ask(
        self, verb: str, unit: str, message: Any, tolerated: tuple[str, ...] = ()
    ) -> tuple[Any, ...] | None:
        """Send a message and wait for its answer."""
        self._serial += 1
        deadline = time.monotonic() + _TIMEOUT_S
        try:
            self._socket.sendall(message.serialise(serial=self._serial))
            while True:
                answer = self._receive(verb, unit, deadline)
                if answer.header.fields.get(_low.HeaderFields.reply_serial) == self._serial:
                    return cast("tuple[Any, ...]", _wrappers.unwrap_msg(answer))
        except _wrappers.DBusErrorResponse as failure:
            if failure.name in tolerated:
                return None
            words = failure.data[0] if failure.data else failure.name
            raise SystemFailure(f"{verb} unit", unit, f"systemd says: {words}") from failure
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, f"{verb} unit", unit) from failure

    def _receive(self, verb: str, unit: str, deadline: float) -> Any:
        while (message := self._parser.get_next_message()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"{verb} unit", unit, "systemd does not answer")
            self._socket.settimeout(left_s)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise Unavailable(f"{verb} unit", unit, "systemd closed the connection")
            self._parser.add_data(data)
        fields = message.header.fields
        if (
            message.header.message_type is _low.MessageType.signal
            and fields.get(_low.HeaderFields.member) == "JobRemoved"
        ):
            _, job, _, result = message.body
            self._ended[job] = result
        return message
