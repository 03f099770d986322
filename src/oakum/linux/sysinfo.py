# SPDX-License-Identifier: Apache-2.0
"""Small system calls that name things: host and domain name, loopback up, session keyring."""

from __future__ import annotations

import _socket
import _struct as struct  # all of `struct` is there
import errno
import fcntl

from oakum.linux.libc import CText, bind, bind_call, c_int, c_size_t
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_JOIN_SESSION_KEYRING: Final = 1

_sethostname = bind("sethostname", CText, c_size_t)
_setdomainname = bind("setdomainname", CText, c_size_t)
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

    Source: netdevice(7). Raises OSError.
    """
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    finally:
        control.close()


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
