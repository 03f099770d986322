# SPDX-License-Identifier: Apache-2.0
"""What `oakum doctor` looks at: one function a question, each answered with what was found and what to do.

Reads /proc and /sys and probes the root directory; changes nothing. Text is parsed by pure functions.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from oakum.cli.text import human_size
from oakum.errors import OakumError

Level = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """One answer."""

    name: str
    level: Level
    found: str
    advice: str = ""


# capabilities(7): name → number; what is lost without it
_WANTED_CAPABILITIES: Final = (
    ("SYS_ADMIN", 21, "fail", "namespaces and mounts"),
    ("NET_ADMIN", 12, "fail", "pod networks"),
    ("MKNOD", 27, "fail", "devices in containers and layers"),
    ("SYS_CHROOT", 18, "fail", "containers' roots"),
    ("SETUID", 7, "fail", "users in containers"),
    ("SETGID", 6, "fail", "groups in containers"),
    ("SYS_PTRACE", 19, "warn", "joining containers of other users"),
    ("SYS_RESOURCE", 24, "warn", "raising limits and lowering the OOM score: such requests are clamped"),
)
# mount_setattr(2) came with 5.12; the rest of what we call is older
_LEAST_KERNEL: Final = (5, 12)
_LAYER_KERNEL: Final = (6, 5)  # overlay's lowerdir+ by fsconfig
_LITTLE_SPACE: Final = 1 << 30
_FEW_FILES: Final = 4096


def parse_release(text: str) -> tuple[int, int]:
    """(major, minor) of a kernel release such as "6.1.0-18-amd64"; (0, 0) when it is none."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def parse_effective(status: str) -> int:
    """The effective capabilities in the text of /proc/PID/status, as a bit set."""
    match = re.search(r"^CapEff:\s*([0-9a-fA-F]{1,16})$", status, re.MULTILINE)
    return int(match[1], 16) if match else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def check_user() -> Check:
    """Who runs us."""
    if os.geteuid() == 0:
        return Check("user", "ok", "root")
    return Check("user", "fail", f"uid {os.geteuid()}", "run it as root: rootless is not supported yet")


def check_kernel() -> Check:
    """Whether the kernel has the calls that mounts are made with."""
    release = os.uname().release
    version = parse_release(release)
    if version < _LEAST_KERNEL:
        return Check("kernel", "fail", release, "5.12 or newer is needed (mount_setattr)")
    if version < _LAYER_KERNEL:
        return Check("kernel", "ok", f"{release} (before 6.5: many layers go through short paths)")
    return Check("kernel", "ok", release)


def check_capabilities() -> Iterator[Check]:
    """Whether we hold what containers need."""
    held = parse_effective(_read("/proc/self/status"))
    missing = [(name, level, what) for name, bit, level, what in _WANTED_CAPABILITIES if not held >> bit & 1]
    if not missing:
        yield Check("capabilities", "ok", "all that are used")
    for name, level, what in missing:
        yield Check(
            "capabilities", "fail" if level == "fail" else "warn", f"no CAP_{name}", f"without it: {what}"
        )


def check_namespaces() -> Check:
    """Whether the kernel has every kind of namespace."""
    wanted = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    missing = [name for name in wanted if not os.path.exists(f"/proc/self/ns/{name}")]
    if missing:
        return Check("namespaces", "fail", "no " + ", ".join(missing), "use a kernel built with them")
    if _read("/proc/sys/user/max_user_namespaces").strip() == "0":
        return Check(
            "namespaces",
            "warn",
            "user namespaces are off",
            "sysctl user.max_user_namespaces=15000 if pods want them",
        )
    return Check("namespaces", "ok", ", ".join(wanted))


def check_cgroups() -> Iterator[Check]:
    """Which control groups there are."""
    from oakum.oci.cgroups import detect_layout

    try:
        layout = detect_layout()
    except OakumError as error:
        yield Check("cgroups", "fail", error.cause, error.hint)
        return
    yield Check("cgroups", "ok", layout.mode)
    wanted = ["cpu", "memory", "pids", "cpuset"] + ([] if layout.mode == "v2" else ["devices", "freezer"])
    for name in wanted:
        if layout.of(name) is None:
            yield Check(
                "cgroups",
                "warn",
                f"no controller {name}",
                f"limits of {name} are refused; enable it in the kernel (or cgroup.subtree_control)",
            )


def check_seccomp() -> Check:
    """Whether system calls can be filtered."""
    if not os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        return Check(
            "seccomp",
            "warn",
            "not in this kernel",
            "containers run unfiltered; use a kernel with CONFIG_SECCOMP_FILTER",
        )
    try:
        importlib.import_module("pyseccomp")  # loading it loads libseccomp
    except (ImportError, OSError, RuntimeError) as error:
        return Check("seccomp", "fail", f"libseccomp does not load: {error}", "apt-get install libseccomp2")
    return Check("seccomp", "ok", "filters are compiled by libseccomp")


def check_nftables() -> Check:
    """Whether the firewall can be written to."""
    from oakum.linux.nftables import Nftables

    try:
        with Nftables() as tables:
            tables.query("list tables", operation="list nftables")
    except OakumError as error:
        return Check(
            "nftables", "fail", error.brief, error.hint or "run it as root, on a kernel with nf_tables"
        )
    return Check("nftables", "ok", "libnftables answers")


def check_forwarding() -> Check:
    """Whether packets may leave a bridge."""
    if _read("/proc/sys/net/ipv4/ip_forward").strip() == "1":
        return Check("forwarding", "ok", "net.ipv4.ip_forward is on")
    return Check("forwarding", "ok", "off; the first pod on the default network turns it on")


def check_ipv6() -> Check:
    """Whether pods can have IPv6 addresses."""
    if (
        not os.path.exists("/proc/net/if_inet6")
        or _read("/proc/sys/net/ipv6/conf/all/disable_ipv6").strip() == "1"
    ):
        return Check("ipv6", "ok", "not on this host: pods get IPv4 only")
    return Check("ipv6", "ok", "on")


def check_apparmor() -> Check:
    """Whether AppArmor profiles can be asked for."""
    if _read("/sys/module/apparmor/parameters/enabled").strip() == "Y":
        return Check("apparmor", "ok", "on")
    return Check("apparmor", "ok", "off: a pod that asks for a profile is refused")


def _existing(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def check_overlay(root: str) -> Check:
    """Whether layers can be stacked below the root directory."""
    from oakum.snapshots.detect import why_no_overlay

    place = _existing(root)
    try:
        reason = why_no_overlay(place)
    except OSError as error:
        return Check("snapshots", "fail", f"{place}: {error.strerror}", "choose another --root")
    if reason:
        return Check(
            "snapshots",
            "warn",
            f"no overlay on {place}: {reason}",
            "containers get full copies, slow and large; put --root on ext4 or xfs",
        )
    return Check("snapshots", "ok", f"overlay on {place}")


def check_space(root: str) -> Check:
    """Whether there is room for images."""
    place = _existing(root)
    usage, files = shutil.disk_usage(place), os.statvfs(place)
    room = f"{human_size(usage.free)} of {human_size(usage.total)} free in {place}"
    if usage.free < _LITTLE_SPACE:
        return Check("space", "warn", room, "oakum image prune -a, or choose another --root")
    if files.f_files and files.f_favail < _FEW_FILES:
        return Check(
            "space",
            "warn",
            f"{files.f_favail} inodes free in {place}",
            "remove files, or choose another --root",
        )
    return Check("space", "ok", room)


def check_state(state: str) -> Check:
    """Whether what must not outlive a reboot lies where it does not."""
    place = os.path.realpath(_existing(state))
    best, kind = "", ""
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) > 4 and right:
            point = fields[4]
            if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, right.split(" ")[0]
    if kind in ("tmpfs", "ramfs"):
        return Check("state", "ok", f"{place} is a {kind}")
    return Check(
        "state",
        "warn",
        f"{place} is on {kind or 'an unknown file system'}",
        "after a reboot it should be empty: use a directory below /run",
    )


def run_checks(root: str, state: str) -> list[Check]:
    """All answers, in the order to read them."""
    single: list[Callable[[], Check]] = [
        check_user,
        check_kernel,
        check_namespaces,
        check_seccomp,
        check_apparmor,
        check_nftables,
        check_forwarding,
        check_ipv6,
        lambda: check_overlay(root),
        lambda: check_space(root),
        lambda: check_state(state),
    ]
    found = [check() for check in single]
    return [*found[:3], *check_capabilities(), *check_cgroups(), *found[3:]]
