# SPDX-License-Identifier: Apache-2.0
"""Which runtimes a pod may ask for by name (CRI's runtime handler), where their programs are, and what they say they can.

"oakum" is built in, and what no name means. runc and crun are there when their programs are; others are named in the
server's configuration or in OAKUM_RUNTIMES. Owns no containers: their shims call the programs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from oakum.backend.config import BUILT_IN
from oakum.errors import FailedPrecondition, InvalidArgument
from oakum.oci.command import DEFAULT_PATH

# What is looked for without being named; an empty path in the configuration turns one off.
KNOWN: Final = ("runc", "crun")

_DIRECTORIES: Final = DEFAULT_PATH
_QUESTION_TIMEOUT_S: Final = 5.0
_NO_ANSWER: Final = f"no answer within {_QUESTION_TIMEOUT_S:g} s"
# A machine that was too busy to answer may have found the time; one that is asked for its health has not for this.
_ASK_AGAIN_S: Final = 300.0
_SAID_MAX: Final = 200


class Abilities(NamedTuple):
    """What a runtime's program says of itself; `problem` is why it cannot be used."""

    problem: str = ""
    mount_options: frozenset[str] = frozenset()

    @property
    def recursive_read_only(self) -> bool:
        """Whether it can make a mount read-only with all below it."""
        return "rro" in self.mount_options


# A program by path and version → when it was asked, and what it said.
_asked: dict[tuple[str, int, int, int, int], tuple[float, Abilities]] = {}


class _Features(msgspec.Struct):
    """The part of `features` that is looked at. Spec: runtime-spec features.md."""

    mountOptions: tuple[str, ...] | None = None  # noqa: N815 - the specification's name


class Handlers:
    """The runtime handlers of one engine."""

    def __init__(self, configured: Mapping[str, str]) -> None:
        """`configured` maps names to paths of programs."""
        self._configured = dict(configured)

    def _paths(self) -> dict[str, str]:
        """All that could be asked for, but for the built-in one, with where it is."""
        found: dict[str, str] = {}
        for name in KNOWN:
            if name not in self._configured and (path := _search(name)):
                found[name] = path
        found.update({name: path for name, path in self._configured.items() if path})
        return found

    def usable(self) -> dict[str, Abilities]:
        """Those whose program is there and runs, the built-in one left out."""
        asked = {name: abilities_of(path) for name, path in self._paths().items()}
        return {name: abilities for name, abilities in asked.items() if not abilities.problem}

    def problems(self) -> list[str]:
        """Why handlers that were configured cannot be used, one line each."""
        asked = [(name, path, abilities_of(path).problem) for name, path in self._paths().items()]
        return [f"runtime handler {name}: {path}: {problem}" for name, path, problem in asked if problem]

    def need(self, name: str) -> str:
        """The path of the program that runs pods of a handler; "" for the built-in runtime.

        Raises:
            InvalidArgument: there is no such handler.
            FailedPrecondition: its program is missing.
        """
        if name in ("", BUILT_IN):
            return ""
        paths = self._paths()
        path = paths.get(name)
        subject = f"runtime_handler {name[:64]!r}"
        if path is None:
            known = ", ".join((BUILT_IN, *paths))
            cause = f"no {name} in {_search_path()}" if name in KNOWN else "there is none of this name"
            raise InvalidArgument("run sandbox", subject, cause, hint=f"leave it empty, or one of: {known}")
        if why := _missing(path):
            raise FailedPrecondition(
                "run sandbox", subject, f"{path}: {why}", hint="install it, or configure where it is"
            )
        return path


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The handlers in OAKUM_RUNTIMES: NAME=PATH, separated by commas. Raises InvalidArgument."""
    pairs = [entry.partition("=") for entry in environment.get("OAKUM_RUNTIMES", "").split(",") if entry]
    return check({name: path for name, _, path in pairs}, "OAKUM_RUNTIMES")


def check(configured: Mapping[str, str], source: str) -> dict[str, str]:
    """`configured` if its names can be handlers and its paths are absolute or empty. Raises InvalidArgument."""
    for name, path in configured.items():
        plain = name.replace("-", "a")
        if not (plain.isascii() and plain.isalnum() and plain == plain.lower() and len(name) < 64):
            raise InvalidArgument(
                "read runtimes", source, f"{name!r} is no name of a handler", hint="lower case, digits and -"
            )
        if name == BUILT_IN:
            raise InvalidArgument("read runtimes", source, f"{BUILT_IN} is built in")
        if path and not os.path.isabs(path):
            raise InvalidArgument("read runtimes", source, f"the path of {name}, {path!r}, is not absolute")
    return dict(configured)


def abilities_of(path: str) -> Abilities:
    """What the program at `path` can do; asked once for every version of it, and again after a while where it failed."""
    if why := _missing(path):
        return Abilities(why)
    status = os.stat(path)
    version = path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    known = _asked.get(version)
    if known is None or (known[1].problem and time.monotonic() - known[0] > _ASK_AGAIN_S):
        known = _asked[version] = time.monotonic(), _ask(path)
    return known[1]


def _ask(path: str) -> Abilities:
    failure, answer = _run(path, "features")
    if failure.endswith(_NO_ANSWER):
        return Abilities(failure)
    if failure:
        # Older ones have no such command. What they do not say they can, they cannot.
        failure, _ = _run(path, "--version")
        return Abilities(failure)
    try:
        return Abilities(
            mount_options=frozenset(msgspec.json.decode(answer, type=_Features).mountOptions or ())
        )
    except msgspec.DecodeError:
        return Abilities()


def _run(path: str, argument: str) -> tuple[str, bytes]:
    """Why a program failed ("": it did not), and what it wrote."""
    import subprocess  # only who asks for a foreign runtime pays for it

    try:
        done = subprocess.run(
            [path, argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_QUESTION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{argument}: {_NO_ANSWER}", b""
    except OSError as error:
        return f"it does not run: {error.strerror or error}", b""
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[:_SAID_MAX]
        return f"it does not run: {argument} exits with {done.returncode}{': ' if said else ''}{said}", b""
    return "", done.stdout


def _missing(path: str) -> str:
    """Why nothing can be executed at `path`; "" when something can."""
    if not os.path.isfile(path):
        return "no such file"
    return "" if os.access(path, os.X_OK) else "not executable"


def _search_path() -> str:
    """Our own PATH, and where administrators' programs are, which a user's PATH may lack."""
    own = os.environ.get("PATH", "")
    return f"{own}:{_DIRECTORIES}" if own else _DIRECTORIES


def _search(name: str) -> str:
    for directory in _search_path().split(":"):
        path = f"{directory}/{name}"
        if os.path.isabs(directory) and not _missing(path):
            return path
    return ""
