# SPDX-License-Identifier: Apache-2.0
"""The operations on a network's plugins: in which order, with what, and what of it counts. Starts nothing itself.

A `Run` starts one plugin; tests hand in one that only remembers. CNI specification, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from oakum.errors import OakumError
from oakum.network.cni.config import Json, NetworkList, at_least
from oakum.network.cni.requests import Target, standard_input, valid_attachments, version_request
from oakum.network.cni.results import (
    UNKNOWN_CONTAINER,
    Call,
    Fault,
    parse_fault,
    parse_result,
    parse_versions,
    reports_error,
)


class Answer(NamedTuple):
    """How a plugin ended: exit code (negative: the signal that killed it), standard output and standard error."""

    status: int
    output: bytes
    errors: bytes = b""


class Run(Protocol):
    """Starts a plugin and waits for it."""

    def __call__(self, call: Call, standard_input: bytes, target: Target | None) -> Answer:
        """Its answer. Raises OakumError when it is not there, cannot be started or does not end in time."""
        ...


def add(network: NetworkList, target: Target, run: Run) -> Json:
    """Attach: every plugin in order, each with the result of the one before; the last result.

    Raises OakumError of the first that fails; what those before it did is to be undone with `delete`.
    """
    result: Json | None = None
    for plugin in network.plugins:
        call = Call("ADD", plugin.type, network.name)
        told = standard_input(network, plugin, runtime_config=target.runtime_config, previous=result)
        answer = run(call, told, target)
        _raise_fault(answer, call)
        result = parse_result(answer.output, call, network.version)
    assert result is not None  # a list has plugins
    return result


def delete(network: NetworkList, target: Target, run: Run, result: Json | None) -> None:
    """Detach: every plugin in reverse order with the result of ADD, if there is one. Raises OakumError."""
    previous = result if at_least(network.version, "0.4.0") else None
    for plugin in reversed(network.plugins):
        call = Call("DEL", plugin.type, network.name)
        told = standard_input(network, plugin, runtime_config=target.runtime_config, previous=previous)
        fault = _fault(run(call, told, target), call)
        # A plugin that knows of no such container has nothing to clean up.
        if fault is not None and fault.code != UNKNOWN_CONTAINER:
            raise fault.to_error()


def check(network: NetworkList, target: Target, run: Run, result: Json) -> None:
    """Ask every plugin whether the attachment is as ADD made it. Raises OakumError of the first that says no."""
    if not network.checkable:
        return
    for plugin in network.plugins:
        call = Call("CHECK", plugin.type, network.name)
        told = standard_input(network, plugin, runtime_config=target.runtime_config, previous=result)
        _raise_fault(run(call, told, target), call)


def status(network: NetworkList, run: Run) -> None:
    """Ask every plugin whether it could serve an ADD. Raises OakumError of the first that says no."""
    if not network.tells_status:
        return
    for plugin in network.plugins:
        call = Call("STATUS", plugin.type, network.name)
        _raise_fault(run(call, standard_input(network, plugin), None), call)


def collect(network: NetworkList, alive: Sequence[tuple[str, str]], run: Run) -> list[OakumError]:
    """Let every plugin free what belongs to no attachment that is alive; what failed, which stops no other."""
    failed: list[OakumError] = []
    if not network.collectable:
        return failed
    for plugin in network.plugins:
        call = Call("GC", plugin.type, network.name)
        told = standard_input(network, plugin, extra=valid_attachments(alive))
        try:
            _raise_fault(run(call, told, None), call)
        except OakumError as error:
            failed.append(error)
    return failed


def versions(plugin: str, network: NetworkList, run: Run) -> tuple[str, ...]:
    """The versions that a plugin says it supports. Raises OakumError."""
    call = Call("VERSION", plugin, network.name)
    answer = run(call, version_request(network.version), None)
    _raise_fault(answer, call)
    return parse_versions(answer.output, call)


def _raise_fault(answer: Answer, call: Call) -> None:
    fault = _fault(answer, call)
    if fault is not None:
        raise fault.to_error()


def _fault(answer: Answer, call: Call) -> Fault | None:
    if answer.status == 0 and not reports_error(answer.output):
        return None
    return parse_fault(answer.status, answer.output, answer.errors, call)
