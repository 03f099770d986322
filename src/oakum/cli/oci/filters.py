# SPDX-License-Identifier: Apache-2.0
"""A spec's linux.seccomp to a BPF program: here, because the compiler is a third-party library and `oci` has none."""

from __future__ import annotations

import json
import os

from oakum.engine.seccomp.compiler import architectures, compile_profile
from oakum.engine.seccomp.profile import ACTIONS, NOTIFY, OPERATORS, Profile, parse
from oakum.errors import InvalidArgument, Unimplemented
from oakum.linux.seccomp import NEW_LISTENER
from oakum.model.light import TYPE_CHECKING
from oakum.oci.spec import Spec

if TYPE_CHECKING:
    from typing import Any, Final

# Source: seccomp(2); by the names of the runtime-spec.
FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}


def seccomp_features() -> dict[str, Any]:
    """What `compile_filter` can do, for the features document. Spec: features-linux.md "Seccomp"."""
    try:
        archs = architectures()
    except Unimplemented:
        return {"enabled": False}  # no libseccomp here
    return {
        "enabled": True,
        "actions": sorted({*ACTIONS, NOTIFY}),
        "operators": sorted(OPERATORS),
        "archs": archs,
        "knownFlags": sorted(FLAGS),
        "supportedFlags": sorted(FLAGS),
    }


def compile_filter(seccomp: dict[str, Any], spec: Spec) -> tuple[bytes, int]:
    """The program and its load flags. Raises InvalidArgument, Unimplemented."""
    subject = "$.linux.seccomp"
    notify = bool(seccomp.get("listenerPath"))
    flags = 0
    names: list[str] = seccomp.get("flags") or []
    for name in names:
        if name not in FLAGS:
            raise InvalidArgument("compile seccomp profile", f"{subject}.flags", f"{name!r} is not known")
        flags |= FLAGS[name]
    capabilities = ((spec.get("process") or {}).get("capabilities") or {}).get("bounding") or []
    major, minor = os.uname().release.split(".")[:2]
    profile = parse(
        json.dumps(seccomp).encode(),
        subject=subject,
        machine=os.uname().machine,
        capabilities=capabilities,
        kernel=(int(major), int("".join(c for c in minor if c.isdigit()))),
        notify=notify,
    )
    if notify:
        _check_notified(profile, subject)
        # Both flags together would need another one, and there is only this thread.
        flags = flags & ~FLAGS["SECCOMP_FILTER_FLAG_TSYNC"] | NEW_LISTENER
    elif flags & FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]:
        raise InvalidArgument(
            "compile seccomp profile", f"{subject}.flags", "nobody listens: no listenerPath"
        )
    return compile_profile(profile), flags


def _check_notified(profile: Profile, subject: str) -> None:
    """The process that hands the filter over must be able to: its own sendmsg may not wait for the one it tells of."""
    if profile.default_action == NOTIFY:
        raise InvalidArgument(
            "compile seccomp profile", f"{subject}.defaultAction", f"{NOTIFY} cannot be the default"
        )
    if any(rule.action == NOTIFY and "sendmsg" in rule.names for rule in profile.rules):
        raise InvalidArgument(
            "compile seccomp profile", f"{subject}.syscalls", f"{NOTIFY} is not possible for sendmsg"
        )
