# SPDX-License-Identifier: Apache-2.0
"""What lies on disk for a pod: its files for name resolution, and the removal of directories.

Also writes the end of containers whose shim is gone. Owns no phases and no locks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import msgspec

from oakum.backend.config import SandboxConfig
from oakum.engine.context import Context
from oakum.engine.states import read_exit, shim_lives, unknown_end
from oakum.engine.storage import storing
from oakum.engine.store.records import ContainerRecord, ExitFacts, SandboxRecord
from oakum.errors import DeadlineExceeded, FailedPrecondition, SystemFailure, Unavailable
from oakum.linux.durable import write_file, write_file_fast

_SHIM_UP_S = 10.0
_POLL_S = 0.01
# Container path → the file's name in the sandbox's directory.
POD_FILES = {"/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf", "/etc/hostname": "hostname"}


def write_files(
    directory: str,
    config: SandboxConfig,
    hostname: str,
    addresses: Sequence[str],
    name_lines: Sequence[str] | None = None,
) -> None:
    """Make a sandbox's directory with hosts, resolv.conf and hostname.

    With `name_lines` its names and those of its neighbours are in these, else its name is written at `addresses`.
    """
    from oakum.network import files  # only sandboxes that are made need it
    from oakum.network.names import merge

    host_network = config.namespaces.network == "node"
    named = name_lines is not None and config.namespaces.uts != "node"
    own = () if named else addresses
    hosts = files.hosts(hostname, own, config.extra_hosts, host_network=host_network)
    contents = {
        "hosts": merge(hosts, name_lines) if name_lines else hosts,
        "resolv.conf": files.resolv_conf(config.dns, host_network=host_network),
        "hostname": files.hostname_file(hostname),
    }
    with storing("write pod files", directory):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        for name, text in contents.items():
            # Containers of any user read them through their bind mounts.
            write_file_fast(f"{directory}/{name}", text.encode(), 0o644)


def remove_directory(parent: str, name: str) -> None:
    """Delete a directory with whatever a container put into it; succeeds for what is gone.

    Raises:
        SystemFailure: something in it cannot be removed (a mount, an immutable file).
    """
    from oakum.snapshots.tree import remove_tree  # goes by descriptors and survives any depth of nesting

    try:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_tree(parent_fd, name)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "remove directory", f"{parent}/{name}") from error
    finally:
        os.close(parent_fd)


def end_shim(context: Context, sandbox_id: str, record: SandboxRecord | None) -> None:
    """End a sandbox's shim with all it holds; do its work where it is dead. Idempotent.

    A shim whose requester was killed may still be on its way up: it holds its lock, but does not listen yet. One
    that hangs is killed: a pod must not be kept from going by what was to help it.

    Raises:
        FailedPrecondition: it neither answers nor dies.
    """
    from oakum.shim.client import ShimClient, cleanup_directory  # only what ends something talks to a shim

    pod = context.layout.pod(sandbox_id)
    deadline = time.monotonic() + _SHIM_UP_S
    while os.path.isdir(pod):
        try:
            with ShimClient.connect(pod) as client:
                client.shutdown()
                return
        except Unavailable:
            pass  # nobody listens: it is dead, or not up yet
        except DeadlineExceeded:
            if record is None or not shim_lives(record):
                raise
            os.kill(record.shim_pid, signal.SIGKILL)
        try:
            cleanup_directory(pod, record.cgroup_path if record is not None and record.owns_cgroup else "")
            return
        except FailedPrecondition:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def settle(context: Context, container: ContainerRecord) -> ContainerRecord:
    """Take a container's end into its row, an unknown one if its shim left none. For shims that are gone."""
    if container.exit is not None or container.phase not in ("starting", "started"):
        return container
    bundle = context.layout.bundle(container.id)
    ended = read_exit(bundle)
    if ended is None:
        ended = unknown_end(container, time.time_ns())
        write_exit(bundle, ended)
    settled = msgspec.structs.replace(
        container, phase="started", exit=ended, started_at_ns=container.started_at_ns or ended.started_at_ns
    )
    context.store.update_container(settled)
    return settled


def write_exit(bundle: str, ended: ExitFacts) -> None:
    """Write an exit record as a shim does."""
    # The shim's reader wants every field, also those that are at their default.
    fields = {name: getattr(ended, name) for name in ExitFacts.__struct_fields__}
    with storing("write exit record", bundle):
        write_file(f"{bundle}/exit.json", msgspec.json.encode(fields))


def forget_exit(bundle: str) -> None:
    """Remove an exit record; succeeds when there is none."""
    try:
        os.unlink(f"{bundle}/exit.json")
    except FileNotFoundError:
        pass  # the usual case


def remove_cgroup(context: Context, path: str) -> None:
    """Kill what is left in a container's cgroup and remove it. For containers whose shim is gone. Idempotent.

    Raises:
        SystemFailure: something in it cannot be killed.
    """
    from oakum.oci.cgroups import Cgroup  # recovery's business

    group = Cgroup(context.cgroups, path)
    if group.exists():
        group.kill_all()
        group.remove()
