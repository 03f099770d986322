# SPDX-License-Identifier: Apache-2.0
"""The program that a shim runs when a container is due again: one container, once; its arguments are from `creation.restart_request`.

It ends with 0 when nothing is left to do, also because nobody wants it any more; with anything else the shim runs
it again later. Standard error is the pod's log.
"""

from __future__ import annotations

import sys

from oakum.engine.context import Context
from oakum.engine.namespace import Namespace
from oakum.errors import OakumError


def main(arguments: list[str]) -> int:
    """Do it; the exit code."""
    root, state, cgroup_driver, namespace, container_id = arguments
    context = Context(root, state, cgroup_driver=cgroup_driver)
    try:
        Namespace(context, namespace).restart_container(container_id)
    except OakumError as error:
        sys.stderr.write(f"restart of {container_id}: {error}\n")
        return 1
    finally:
        context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
