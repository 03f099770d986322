# SPDX-License-Identifier: Apache-2.0
"""A profile as the runtime spec's linux.seccomp, for runtimes that compile it themselves. Pure.

Spec: OCI runtime-spec 1.2 config-linux.md "Seccomp".
"""

from __future__ import annotations

from typing import Any

from oakum.engine.seccomp.profile import ACTIONS, MACHINE_ARCH, Profile, Rule


def document(profile: Profile, machine: str) -> dict[str, Any]:
    """The value of linux.seccomp."""
    native = MACHINE_ARCH.get(machine)
    found: dict[str, Any] = {
        "defaultAction": profile.default_action,
        "architectures": [*([native] if native else []), *profile.arches],
        "syscalls": [_rule(rule) for rule in profile.rules if not _is_default(rule, profile)],
    }
    if ACTIONS.get(profile.default_action):
        found["defaultErrnoRet"] = profile.default_errno
    return found


def _is_default(rule: Rule, profile: Profile) -> bool:
    """Whether a rule says what the default says: libseccomp refuses those."""
    same_number = not ACTIONS.get(rule.action) or rule.errno == profile.default_errno
    return rule.action == profile.default_action and same_number


def _rule(rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {"names": list(rule.names), "action": rule.action}
    if ACTIONS.get(rule.action):
        found["errnoRet"] = rule.errno
    if rule.args:
        found["args"] = [
            {"index": a.argument, "value": a.value, "valueTwo": a.value_two, "op": a.operator}
            for a in rule.args
        ]
    return found
