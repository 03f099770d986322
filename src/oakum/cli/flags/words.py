# SPDX-License-Identifier: Apache-2.0
"""Options made of names and values: environment, labels, sysctls, users, groups, security options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from oakum.backend.config import SecurityProfile, SELinuxOptions
from oakum.errors import InvalidArgument, NotFound, SystemFailure

# uid_t of (uid_t)-1 means "no change" to the kernel (setresuid(2)), so it names nobody
_ID_LIMIT = 2**32 - 1


def parse_env(text: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """(name, value) of "NAME=VALUE"; "NAME" takes the caller's value, and is None where it has none.

    Raises:
        InvalidArgument: the name is empty or has a NUL.
    """
    name, equals, value = text.partition("=")
    if not name or "\0" in text:
        raise InvalidArgument(
            "parse --env", repr(text), "no name", hint="write NAME=VALUE, or NAME to pass yours on"
        )
    if equals:
        return name, value
    return (name, environment[name]) if name in environment else None


def parse_env_lines(path: str, text: str, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables of an env file: NAME=VALUE or NAME a line; empty lines and those that begin with # are skipped.

    Values are taken as they stand: quotes and blanks at the end belong to them.

    Raises:
        InvalidArgument: a line has no name, or blanks in it.
    """
    found: list[tuple[str, str]] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or any(c.isspace() for c in name) or "\0" in line:
            raise InvalidArgument("read env file", f"{path}:{number}", f"{name!r} is no variable name")
        pair = parse_env(line, environment)
        if pair is not None:
            found.append(pair)
    return found


def read_env_file(path: str, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables of the env file at `path`.

    Raises:
        NotFound: no such file.
        InvalidArgument: not UTF-8, or a bad line.
        SystemFailure: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise NotFound("read env file", path, "no such file") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument("read env file", path, "not UTF-8 text") from error
    except OSError as error:
        raise SystemFailure.from_os_error(error, "read env file", path) from error
    return parse_env_lines(path, text, environment)


def merge_env(
    pairs: Iterable[str], files: Iterable[str], environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """All variables: those of the files first, those of `pairs` over them; the last of a name wins."""
    merged: dict[str, str] = {}
    for path in files:
        merged.update(read_env_file(path, environment))
    for text in pairs:
        pair = parse_env(text, environment)
        if pair is None:
            merged.pop(text, None)
        else:
            merged[pair[0]] = pair[1]
    return tuple(merged.items())


def parse_pairs(option: str, texts: Iterable[str], *, value_needed: bool = False) -> dict[str, str]:
    """The mapping of "NAME=VALUE" texts; without "=" the value is empty.

    Raises:
        InvalidArgument: an empty name, or no value where one is needed.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or "\0" in text or (value_needed and not equals):
            raise InvalidArgument(f"parse {option}", repr(text), "not NAME=VALUE")
        found[name] = value
    return found


def check_user(text: str) -> str:
    """`text` if it can be a user: "uid", "name", "uid:gid", "name:group" and mixtures; ":group" is root with that group.

    Raises:
        InvalidArgument: it cannot.
    """
    user, colon, group = text.partition(":")
    parts = [group] if colon and not user else [user, group] if colon else [user]
    for part in parts:
        bad = not part or ":" in part or "/" in part or any(c.isspace() or not c.isprintable() for c in part)
        if bad or part.startswith("-") or (part.isascii() and part.isdecimal() and int(part) >= _ID_LIMIT):
            raise InvalidArgument(
                "parse --user",
                repr(text),
                "not USER[:GROUP]",
                hint="try 1000:1000, nobody or www-data:www-data",
            )
    return text


def parse_group(text: str) -> int:
    """The number of a supplementary group.

    Raises:
        InvalidArgument: not a number below 2^32 - 1.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) >= _ID_LIMIT:
        raise InvalidArgument(
            "parse --group-add", repr(text), "not a group number", hint="groups are given by number, e.g. 27"
        )
    return int(text)


def parse_capability(option: str, text: str) -> str:
    """A capability name as the runtime wants it: "net_admin" gives "CAP_NET_ADMIN"; "all" gives "ALL".

    Raises:
        InvalidArgument: not such a name (capabilities(7)).
    """
    name = text.strip().upper().removeprefix("CAP_")
    if not name or not name.isascii() or not name.replace("_", "").isalpha():
        raise InvalidArgument(f"parse {option}", repr(text), "not a capability", hint="try NET_ADMIN or ALL")
    return "ALL" if name == "ALL" else f"CAP_{name}"


class SecurityOptions(NamedTuple):
    """What all --security-opt options together ask for; None means "not said"."""

    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    selinux: SELinuxOptions | None = None
    no_new_privs: bool = False


def _profile(kind: Literal["seccomp", "apparmor"], value: str) -> SecurityProfile:
    if value == "unconfined":
        return SecurityProfile(kind="unconfined")
    if value in ("default", "builtin", "runtime/default"):
        return SecurityProfile(kind="runtime_default")
    if kind == "seccomp":
        import os.path  # already loaded by the interpreter; here because only this branch wants it

        value = os.path.abspath(value)
    return SecurityProfile(kind="localhost", localhost_ref=value)


def parse_security_options(texts: Iterable[str]) -> SecurityOptions:
    """The security options that "seccomp=FILE|unconfined", "no-new-privileges", "apparmor=NAME", "label=..." ask for.

    Raises:
        InvalidArgument: an unknown one.
    """
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    label: dict[str, str] = {}
    no_new_privs = False
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            key, sign, value = text.partition(":")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            no_new_privs = value != "false"
        elif key == "seccomp" and value:
            seccomp = _profile("seccomp", value)
        elif key == "apparmor" and value:
            apparmor = _profile("apparmor", value)
        elif key == "label" and value.partition(":")[0] in ("user", "role", "type", "level"):
            part, _, content = value.partition(":")
            label[part] = content
        else:
            raise InvalidArgument(
                "parse --security-opt",
                repr(text),
                "unknown option",
                hint="try seccomp=FILE, seccomp=unconfined, no-new-privileges or apparmor=NAME",
            )
    selinux = (
        SELinuxOptions(
            user=label.get("user", ""),
            role=label.get("role", ""),
            type=label.get("type", ""),
            level=label.get("level", ""),
        )
        if label
        else None
    )
    return SecurityOptions(seccomp, apparmor, selinux, no_new_privs)
