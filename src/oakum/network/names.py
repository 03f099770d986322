# SPDX-License-Identifier: Apache-2.0
"""How containers of one network find each other: lines in their hosts files. Pure functions.

Every line of ours ends with a mark, so that lines which a container or its user wrote into the file stay as they are.
What a container is called is chosen by whoever starts it: names that mean the container itself are refused, and a
neighbour's name never takes a container's own name or one that its user gave an address with --add-host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from oakum.errors import InvalidArgument

_NAME: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}", re.ASCII)
# What the standard lines of a hosts file define, and what resolvers take for loopback (RFC 6761, 6.3).
_RESERVED: Final = re.compile(
    r"(.*\.)?(localhost|localhost[46]?\.localdomain[46]?|localhost[46]|ip6-[a-z]+|broadcasthost)\.?", re.ASCII
)
_MARK: Final = "\t# oakum network "


class Neighbour(NamedTuple):
    """A place in a network and what the one who has it is called; `own` for the container itself.

    `names` are one's alone; `aliases` several may have.
    """

    network: str
    addresses: tuple[str, ...]
    names: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    own: bool = False


def check_names(names: Iterable[str], *, shared: bool = True) -> None:
    """Look at what a container is to be called, and by others where that is `shared` with them.

    Raises:
        InvalidArgument: one cannot stand in a hosts file, or means every container itself.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                "name container in network",
                repr(name[:80]),
                "not a host name",
                hint="letters, digits, '_', '.' and '-', at most 128",
            )
        if shared and _RESERVED.fullmatch(name.lower()):
            raise InvalidArgument(
                "name container in network", repr(name), "the name means a host itself, everywhere"
            )


def render(neighbours: Iterable[Neighbour], taken: Collection[str] = ()) -> list[str]:
    """The lines for one container's hosts file: its own names first, then those of the others.

    Names of others that are among its own or in `taken` are left out.
    """
    ordered = sorted(neighbours, key=lambda each: not each.own)
    mine = {name.lower() for each in ordered if each.own for name in each.names}
    mine.update(name.lower() for name in taken)
    lines: list[str] = []
    for each in ordered:
        names = dict.fromkeys((*each.names, *each.aliases))
        told = [name for name in names if each.own or name.lower() not in mine]
        if told:
            lines += [f"{address}\t{' '.join(told)}{_MARK}{each.network}" for address in each.addresses]
    return lines


def merge(text: str, lines: Sequence[str]) -> str:
    """A hosts file with our lines exchanged for `lines`; what others wrote stays."""
    kept = [line for line in text.split("\n") if _MARK not in line]
    while kept and not kept[-1]:
        kept.pop()
    return "\n".join([*kept, *lines]) + "\n"
