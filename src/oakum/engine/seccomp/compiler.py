# SPDX-License-Identifier: Apache-2.0
"""Profiles to BPF programs, kept on disk by the hash of what they say: compiling takes up to 100 ms.

Owns the cache's files. Uses libseccomp through pyseccomp, loaded only when something must be compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from oakum.engine.seccomp import default
from oakum.engine.seccomp.profile import Profile
from oakum.engine.spec.capabilities import ALL
from oakum.engine.storage import storing
from oakum.errors import InvalidArgument, Unimplemented
from oakum.linux.durable import write_file_fast

# Part of the cache's key: raised when the same profile must come out differently.
_FORMAT: Final = 1
_PROGRAM_MAX: Final = 4096 * 8  # BPF_MAXINSNS instructions (seccomp(2))


def compiled(profile: Profile, cache_directory: str, machine: str) -> bytes:
    """The program for a profile, from the cache if it is there.

    Raises:
        Unimplemented: there is no libseccomp here.
        InvalidArgument: libseccomp refuses the profile.
    """
    from hashlib import sha256  # loads OpenSSL: only profiles from files pay for that

    said = msgspec.json.encode((_FORMAT, machine, profile))
    return _cached(f"{cache_directory}/{sha256(said).hexdigest()}.bpf", lambda: profile)


def compiled_default(capabilities: Sequence[str], cache_directory: str, machine: str) -> bytes:
    """The program of the default profile for these capabilities; on the way of every container, so it hashes nothing.

    Raises:
        Unimplemented: there is no libseccomp here.
    """
    # The profile is code: it is what it was for as long as its file is.
    source = os.stat(default.__file__)
    bits = sum(1 << ALL.index(name) for name in capabilities)
    name = f"default-{_FORMAT}-{machine}-{bits:x}-{source.st_mtime_ns:x}-{source.st_size:x}"
    return _cached(
        f"{cache_directory}/{name}.bpf",
        lambda: default.default_profile(machine=machine, capabilities=capabilities),
    )


def _cached(path: str, profile: Callable[[], Profile]) -> bytes:
    try:
        with open(path, "rb") as file:
            program = file.read()
        if program and len(program) % 8 == 0:
            return program
    except FileNotFoundError:
        pass  # the usual first time
    program = compile_profile(profile())
    with storing("keep seccomp program", path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_file_fast(path, program)
    return program


def compile_profile(profile: Profile) -> bytes:
    """The program for a profile, always made anew. Raises as `compiled`."""
    library = _library()
    try:
        program = _build(library, profile)
    except OSError as error:
        raise InvalidArgument("compile seccomp profile", "", str(error)) from error
    if len(program) > _PROGRAM_MAX:
        raise InvalidArgument("compile seccomp profile", "", "the program is longer than the kernel takes")
    return program


def _library() -> Any:
    # Looks for the library with ldconfig and binds it by ctypes: 50 ms that only the first container pays.
    try:
        import pyseccomp  # pyright: ignore[reportMissingTypeStubs] - it ships none
    except (ImportError, OSError, RuntimeError) as error:
        raise Unimplemented(
            "compile seccomp profile",
            "",
            str(error),
            hint="install libseccomp2, or run with seccomp unconfined",
        ) from error
    return pyseccomp


def _build(library: Any, profile: Profile) -> bytes:
    made = library.SyscallFilter(_action(library, profile.default_action, profile.default_errno))
    # The runtime sets no_new_privs itself where it is wanted; libseccomp must not load anything anyway.
    made.set_attr(library.Attr.CTL_NNP, 0)
    # A binary tree: with 400 calls a plain list would cost every system call of the container.
    made.set_attr(library.Attr.CTL_OPTIMIZE, 2)
    for arch in profile.arches:
        number = getattr(library.Arch, arch.removeprefix("SCMP_ARCH_"), None)
        if number is None:
            raise InvalidArgument("compile seccomp profile", arch, "no such architecture")
        if number == library.system_arch():
            continue
        try:
            made.add_arch(number)
        except FileExistsError:
            continue  # named twice
        except OSError as error:
            why = "its system calls cannot be in one filter with this machine's"
            raise InvalidArgument("compile seccomp profile", arch, why) from error
    for rule in profile.rules:
        action = _action(library, rule.action, rule.errno)
        numbered = rule.action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
        if rule.action == profile.default_action and (not numbered or rule.errno == profile.default_errno):
            continue  # libseccomp refuses rules that say what the default says
        args = [
            library.Arg(
                a.argument, getattr(library, a.operator.removeprefix("SCMP_CMP_")), a.value, a.value_two
            )
            for a in rule.args
        ]
        for name in rule.names:
            call = library.resolve_syscall(library.Arch.NATIVE, name)
            if call != -1:  # -1: this libseccomp has never heard of it, so no program can rely on it here
                made.add_rule(action, call, *args)
    return _export(made)


def _export(made: Any) -> bytes:
    # The library writes to a descriptor only; the module is loaded on this path alone.
    import tempfile

    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _action(library: Any, name: str, errno: int) -> int:
    short = name.removeprefix("SCMP_ACT_")
    if short in ("ERRNO", "TRACE"):
        return int(getattr(library, short)(errno))
    return int(getattr(library, short))


def architectures() -> list[str]:
    """The architectures whose system calls a filter of this machine can cover, by their names in the runtime-spec."""
    library = _library()
    names: list[str] = []
    known: list[str] = dir(library.Arch)
    for name in known:
        if not name.isupper() or name == "NATIVE":
            continue
        number = getattr(library.Arch, name)
        try:
            if number != library.system_arch():
                library.SyscallFilter(library.ALLOW).add_arch(number)
        except OSError:
            continue  # the other byte order
        names.append(f"SCMP_ARCH_{name}")
    return sorted(names)
