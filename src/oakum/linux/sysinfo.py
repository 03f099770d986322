# SPDX-License-Identifier: Apache-2.0
"""Small system calls that name things: host and domain name, loopback up, session keyring."""

from __future__ import annotations

import errno
import sys

from oakum.linux.control import device_control
from oakum.linux.fd import Fd
from oakum.linux.libc import CText, bind, bind_call, c_int, c_size_t
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_JOIN_SESSION_KEYRING: Final = 1
_NAME_BYTES: Final = 16
_AF_INET: Final = 2
_SOCK_DGRAM: Final = 2
_SOCK_CLOEXEC: Final = 0o2000000

_sethostname = bind("sethostname", CText, c_size_t)
_setdomainname = bind("setdomainname", CText, c_size_t)
_socket = bind("socket", c_int, c_int, c_int)
_keyctl = bind_call("keyctl", c_int, CText)


def set_hostname(name: str) -> None:
    """Name the host in this UTS namespace.

    Source: sethostname(2). Raises OSError.
    """
    _sethostname(name, len(name.encode()), target=name)


def set_domainname(name: str) -> None:
    """Name the NIS domain in this UTS namespace.

    Source: setdomainname(2). Raises OSError.
    """
    _setdomainname(name, len(name.encode()), target=name)


def loopback_up() -> None:
    """Bring "lo" up in this network namespace.

    Source: netdevice(7), socket(2). Raises OSError.
    """
    with Fd(_socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0, target="AF_INET")) as control:
        # struct ifreq: the name, and in the union behind it the flags
        name, rest = b"lo".ljust(_NAME_BYTES, b"\0"), b"\0" * 22
        _, found = device_control(control.fileno(), _SIOCGIFFLAGS, name + b"\0\0" + rest)
        flags = int.from_bytes(found[_NAME_BYTES : _NAME_BYTES + 2], sys.byteorder) | _IFF_UP
        device_control(control.fileno(), _SIOCSIFFLAGS, name + flags.to_bytes(2, sys.byteorder) + rest)


def join_new_session_keyring(name: str) -> None:
    """Leave the caller's session keyring for a new one, where the kernel has keyrings.

    Source: keyctl(2). Raises OSError.
    """
    try:
        _keyctl(_JOIN_SESSION_KEYRING, name, target="session keyring")
    except OSError as failure:
        # Without keyrings, or refused by an outer container's filter, there is none to leave either.
        if failure.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
