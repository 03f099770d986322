# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how the service goes: the sd_notify protocol, on the standard library.

Source: sd_notify(3), systemd.service(5). Without NOTIFY_SOCKET nothing is said.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class ServiceManager:
    """The one who started us, if it wants to know."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = address
        self.watchdog_s = watchdog_s
        """Seconds between two signs of life at most; 0: none wanted."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """Who is named in `environment`; the names are taken out, so that containers' parents do not speak too."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        meant = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if meant else 0.0)

    def tell(self, *lines: str) -> None:
        """Send assignments such as "READY=1"; a manager that does not listen is no reason to stop serving."""
        if not self._address:
            return
        target = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.sendto("\n".join(lines).encode(), target)
        except OSError as error:
            log.warning("cannot notify the service manager", extra={"fields": {"error": str(error)}})

    def ready(self, status: str) -> None:
        """The server answers."""
        self.tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """A line for people, shown by systemctl status."""
        self.tell(f"STATUS={status}")

    def stopping(self) -> None:
        """The server ends."""
        self.tell("STOPPING=1", "STATUS=finishing calls in flight; containers go on")

    def alive(self) -> None:
        """A sign of life for the watchdog."""
        self.tell("WATCHDOG=1")
