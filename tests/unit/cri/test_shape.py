# SPDX-License-Identifier: Apache-2.0
"""The shape of the front door: which RPCs it has, and that each is a short, named translation."""

from __future__ import annotations

import inspect

import pytest

from oakum.api.cri._proto import cri_pb2, cri_pb2_grpc
from oakum.api.cri.rpc.images import ImageServiceRpcs
from oakum.api.cri.server import RuntimeService

MAX_LINES = 40

HANDLERS = {
    method.name: getattr(implementation, method.name)
    for service, implementation in (("RuntimeService", RuntimeService), ("ImageService", ImageServiceRpcs))
    for method in cri_pb2.DESCRIPTOR.services_by_name[service].methods
}


def is_ours(name: str) -> bool:
    return HANDLERS[name].__module__ != cri_pb2_grpc.__name__


def test_every_rpc_is_there() -> None:
    assert {name for name in HANDLERS if not is_ours(name)} == set()


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_a_handler_is_short_and_names_its_rpc(name: str) -> None:
    handler = HANDLERS[name]
    assert inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)
    assert f"Spec: CRI v1 {name}." in (handler.__doc__ or "")
    assert len(inspect.getsource(handler).splitlines()) <= MAX_LINES
