# SPDX-License-Identifier: Apache-2.0
"""What is done to containers that are there, and what is asked about them: the commands but for those that make processes."""

from __future__ import annotations

import sys

from oakum.cli.oci.call import Call, read_json


def state(call: Call) -> int:
    """Write its state as JSON."""
    from oakum.model import jsontext
    from oakum.oci.runtime.container import Container

    state = {**Container.find(call.root, call.container_id).state(), "owner": ""}
    sys.stdout.write(jsontext.pretty(state, 2))
    return 0


def kill(call: Call) -> int:
    """Signal it."""
    from oakum.model.signals import parse_signal
    from oakum.oci.runtime.container import Container

    number = parse_signal(call.arguments.words[1] if len(call.arguments.words) > 1 else "SIGTERM")
    Container.find(call.root, call.container_id).kill(number, everyone=call.arguments.flag("all"))
    return 0


def delete(call: Call) -> int:
    """Remove it."""
    from oakum.oci.runtime import container

    for warning in container.delete(call.root, call.container_id, force=call.arguments.flag("force")):
        call.caller.warning(warning)
    return 0


def pause(call: Call) -> int:
    """Freeze it."""
    from oakum.oci.runtime.container import Container

    Container.find(call.root, call.container_id).pause()
    return 0


def resume(call: Call) -> int:
    """Let it go on."""
    from oakum.oci.runtime.container import Container

    Container.find(call.root, call.container_id).resume()
    return 0


def list_all(call: Call) -> int:
    """Write the containers of the state directory."""
    from oakum.cli.oci.listing import write_list

    return write_list(
        call.root, call.arguments.text("format") or "table", call.caller, quiet=call.arguments.flag("quiet")
    )


def ps(call: Call) -> int:
    """Write its processes."""
    from oakum.cli.oci.listing import write_processes

    return write_processes(
        call.root, call.container_id, call.arguments.text("format") or "table", call.arguments.words[1:]
    )


def update(call: Call) -> int:
    """Change its limits."""
    from oakum.cli.oci.updates import resources_of
    from oakum.oci.runtime.container import Container

    container = Container.find(call.root, call.container_id)
    path = call.arguments.text("resources")
    for warning in container.update(resources_of(call.arguments, read_json(path) if path else None)):
        call.caller.warning(warning)
    return 0


def events(call: Call) -> int:
    """Write its statistics and what happens to it."""
    from oakum.cli.oci.events import write_events

    a = call.arguments
    return write_events(
        call.root, call.container_id, interval=a.text("interval") or "5s", once=a.flag("stats")
    )


def spec(call: Call) -> int:
    """Write a config.json to start from."""
    from oakum.cli.oci.template import write_spec

    return write_spec(call.arguments.text("bundle") or ".", rootless=call.arguments.flag("rootless"))


def features(call: Call) -> int:  # noqa: ARG001 - every command has this shape
    """Write what this runtime can do."""
    from oakum.cli.oci.filters import seccomp_features
    from oakum.model import jsontext
    from oakum.oci.runtime import features as known

    sys.stdout.write(jsontext.pretty(known.features(seccomp_features()), 4) + "\n")
    return 0
