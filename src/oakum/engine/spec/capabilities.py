# SPDX-License-Identifier: Apache-2.0
"""Which capabilities a container gets. Owns the default set and the add and drop rules; the names are the runtime's.

Spec: OCI runtime-spec 1.2 config.md "process.capabilities"; capabilities(7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from oakum.errors import InvalidArgument
from oakum.oci.capabilities import NAMES

ALL: Final[tuple[str, ...]] = NAMES

# What both Docker and containerd give an ordinary container.
DEFAULT: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


def normalize(name: str) -> str:
    """Spell a name as the kernel does: "net_admin" becomes "CAP_NET_ADMIN"; "ALL" stays.

    Raises:
        InvalidArgument: no such capability.
    """
    upper = name.strip().upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL:
        raise InvalidArgument(
            "set capabilities",
            repr(name),
            "no such capability",
            hint="see capabilities(7), such as NET_ADMIN",
        )
    return full


def effective(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool, known: Sequence[str] = ALL
) -> tuple[str, ...]:
    """The container's capabilities, in the kernel's order; `known` are those that this kernel has.

    "ALL" in `drop` starts from none, "ALL" in `add` from all; single names come after, as CRI has it.
    """
    if privileged:
        return tuple(known)
    added = [normalize(n) for n in add]
    dropped = [normalize(n) for n in drop]
    chosen = set(DEFAULT)
    if "ALL" in added:
        chosen = set(known)
    if "ALL" in dropped:
        # Adding all and dropping all at once leaves what is named: the narrower wish wins.
        chosen = set[str]()
    chosen |= {n for n in added if n != "ALL"}
    chosen -= {n for n in dropped if n != "ALL"}
    return tuple(n for n in known if n in chosen)


def sets(chosen: Sequence[str], ambient: Sequence[str] = ()) -> dict[str, Any]:
    """The five sets of the runtime spec.

    Inheritable stays empty but for the ambient ones, which need it (CVE-2022-24769, CVE-2022-27650).
    """
    wanted = [normalize(n) for n in ambient]
    if "ALL" in wanted:
        wanted = list(chosen)
    missing = [n for n in wanted if n not in chosen]
    if missing:
        raise InvalidArgument(
            "set ambient capabilities", missing[0], "the container does not have it", hint="add it too"
        )
    have = list(chosen)
    return {
        "bounding": have,
        "effective": have,
        "permitted": have,
        "inheritable": list(wanted),
        "ambient": list(wanted),
    }
