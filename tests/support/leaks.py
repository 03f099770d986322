# SPDX-License-Identifier: Apache-2.0
"""What a test must not leave behind: processes, mounts, descriptors, cgroups, links, firewall tables.

Processes and descriptors are always compared: they are known to be ours (see `reaper`). Mounts are compared where
they lie below the run's own directory. The rest belongs to the whole machine, so it is compared only where
OAKUM_TESTS_ALONE=1 says that nobody else starts containers meanwhile (scripts/test and CI do).
"""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import time
from collections import Counter
from typing import NamedTuple

from tests.support.patience import patient
from tests.support.reaper import reaper_pid, unescape, unmount_below

# made once by libraries for the whole process, on first use
_SHARED_FDS = re.compile(r"anon_inode:\[event(poll|fd)\]|/dev/(null|urandom|random)|/memfd:.*|.*/\.venv/.*")
# directories that the engine keeps for the next container: cgroup parents without a process
_KEPT_CGROUP = re.compile(
    r"/(oakum|kubepods|k8s\.io|default|bench|system\.slice)(/[a-z0-9._-]{1,40})?|/oakum-docker"
)
_ZYGOTE = "oakum zygote"
# an installation's bridge and its rules stay for its next sandbox
_NETWORK = re.compile(r"(network interface|firewall table inet) oakum-[0-9a-f]{8}")
# what iptables makes when plugins first use it, and never removes
_IPTABLES = re.compile(r"table ip6? (nat|filter|mangle)")


def alone_on_machine() -> bool:
    """Whether links, cgroups and firewall tables of the whole machine may be compared."""
    return os.environ.get("OAKUM_TESTS_ALONE") == "1"


class Snapshot(NamedTuple):
    """What exists at one moment, each as text that a person can act on."""

    processes: dict[int, str]
    mounts: Counter[str]
    descriptors: Counter[str]
    machine: frozenset[str]


def take(own_directory: str) -> Snapshot:
    """What exists now; mounts are those at or from below `own_directory` (all when alone)."""
    alone = alone_on_machine()
    ours = _descendants()
    machine = _cgroups(ours) | _links() | _netns_names() | _firewall_tables() if alone else set[str]()
    return Snapshot(
        {pid: _title(pid) for pid in sorted(ours - {reaper_pid() or os.getpid(), os.getpid()})},
        _mounts("" if alone else own_directory),
        _descriptors(),
        frozenset(machine),
    )


def leaked(
    before: Snapshot, own_directory: str, *, wait_s: float | None = None, keep_installations: bool = True
) -> list[str]:
    """What is there now and was not `before`, after giving it `wait_s` to go; processes and mounts are removed.

    The kernel takes its time with the interfaces of a namespace that has ended: by default, some seconds.

    Zygotes, bridges and their rules outlive their users by design: with `keep_installations` they are no leak, for
    the installation may belong to a fixture of a wider scope.
    """
    deadline = time.monotonic() + (patient(5.0) if wait_s is None else wait_s)
    while True:
        gc.collect()
        now = take(own_directory)
        found = _new(before, now, keep_installations=keep_installations)
        if not found or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if found:
        _remove(before, now, own_directory, keep_installations=keep_installations)
    return found


def _new(before: Snapshot, now: Snapshot, *, keep_installations: bool) -> list[str]:
    found = [
        f"process {pid}: {title}"
        for pid, title in now.processes.items()
        if pid not in before.processes and not (keep_installations and _ZYGOTE in title)
    ]
    found += [f"mount {line}" for line in (now.mounts - before.mounts).elements()]
    found += [
        f"descriptor of the test process: {t}" for t in (now.descriptors - before.descriptors).elements()
    ]
    found += sorted(
        what for what in now.machine - before.machine if not (keep_installations and _NETWORK.fullmatch(what))
    )
    return found


def _remove(before: Snapshot, now: Snapshot, own_directory: str, *, keep_installations: bool) -> None:
    """End and unmount what leaked, so that the next test starts clean and no removal crosses into a mount."""
    for pid, title in now.processes.items():
        if pid not in before.processes and not (keep_installations and _ZYGOTE in title):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    # Only what is new: daemons of wider fixtures live on theirs.
    for line in now.mounts - before.mounts:
        path = line.rpartition(" (")[0]
        if path.startswith(f"{own_directory}/"):
            unmount_below(path)


def cgroup_mounts() -> list[str]:
    """Where the hierarchies are mounted, v1 and v2."""
    lines = [line.split(" ") for line in _read("/proc/self/mountinfo").splitlines()]
    return [unescape(f[4]) for f in lines if f[f.index("-") + 1] in ("cgroup", "cgroup2")]


def remove_cgroups(path: str) -> None:
    """Remove the cgroup `path` ("/name") with all below it from every hierarchy; its processes must be gone."""
    for top in cgroup_mounts():
        for directory, _, _ in os.walk(top + path, topdown=False):
            os.rmdir(directory)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def _descendants() -> set[int]:
    """The reaper and all below it; zombies, which their parent will reap, left out."""
    top = reaper_pid() or os.getpid()
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = _read(f"/proc/{name}/stat")
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(name)] = int(parent)
    mine = {top}
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        grew = bool(more)
        mine |= more
    return mine


def _title(pid: int) -> str:
    try:
        return _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip() or _read(f"/proc/{pid}/comm").strip()
    except OSError:
        return "(gone)"


def _mounts(below: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split(" ")
        rest = fields[fields.index("-") + 1 :]
        text = f"{unescape(fields[4])} ({rest[0]} {rest[1]}, root {fields[3]})"
        if below in text:
            found[text] += 1
    return found


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:")):
            target = target.partition(":")[0]
        if not _SHARED_FDS.fullmatch(target) and not target.startswith("/proc/"):
            found[target] += 1
    return found


def _cgroups(ours: set[int]) -> set[str]:
    """All but those that stay by design, and those where others' processes are: the machine's own services."""
    found: set[str] = set()
    for top in cgroup_mounts():
        for directory, _, _ in os.walk(top):
            path = directory[len(top) :]
            if path and not _KEPT_CGROUP.fullmatch(path) and not _of_others(directory, ours):
                found.add(f"cgroup {directory}")
    return found


def _of_others(cgroup: str, ours: set[int]) -> bool:
    try:
        members = {int(pid) for pid in _read(f"{cgroup}/cgroup.procs").split()}
    except OSError:  # removed meanwhile, or the root of threads
        return False
    # 0: a process of another pid namespace
    return bool(members) and not members & ours


def _links() -> set[str]:
    return {f"network interface {name}" for name in os.listdir("/sys/class/net")}


def _netns_names() -> set[str]:
    try:
        return {f"named network namespace {name}" for name in os.listdir("/run/netns")}
    except FileNotFoundError:
        return set()


def _firewall_tables() -> set[str]:
    done = subprocess.run(["nft", "list", "tables"], check=False, capture_output=True, text=True)
    return {f"firewall {line}" for line in done.stdout.splitlines() if not _IPTABLES.fullmatch(line)}
