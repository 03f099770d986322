# SPDX-License-Identifier: Apache-2.0
"""How readily the kernel kills what already runs when memory is short. Owns /proc/PID/oom_score_adj, nothing else."""

from __future__ import annotations

from oakum.errors import SystemFailure
from oakum.oci.cgroups import Cgroup, Layout


def set_score(cgroups: Layout, cgroup_path: str, score: int) -> None:
    """Give every process of a container this score; where the host forbids lowering it, it stays.

    Source: proc_pid_oom_score_adj(5).

    Raises:
        SystemFailure: the kernel refused for another reason.
    """
    for pid in Cgroup(cgroups, cgroup_path).processes():
        path = f"/proc/{pid}/oom_score_adj"
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(str(score))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except PermissionError:
            continue  # lowering needs CAP_SYS_RESOURCE, which this host may withhold from us
        except OSError as error:
            raise SystemFailure.from_os_error(error, "write", path) from error
