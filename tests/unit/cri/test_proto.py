# SPDX-License-Identifier: Apache-2.0
"""The committed protobuf code is what the generator writes, and says what the table of facts says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from oakum.api.cri._proto import cri_pb2

REPOSITORY = Path(__file__).resolve().parents[3]
HOME = Path("oakum/api/cri/_proto")
FACTS: dict[str, Any] = json.loads((REPOSITORY / "src" / HOME / "cri-v1.json").read_text())
SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


def type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            key, value = (type_name(field.message_type.fields_by_name[part]) for part in ("key", "value"))
            return f"map<{key},{value}>"
        return field.message_type.full_name.removeprefix("runtime.v1.")
    if field.enum_type is not None:
        return field.enum_type.full_name.removeprefix("runtime.v1.")
    return SCALARS[field.type]


def facts_of(message: Descriptor) -> list[list[Any]]:
    found = []
    for field in message.fields:
        kind = type_name(field)
        if field.is_repeated and not kind.startswith("map<"):
            kind = f"repeated {kind}"
        flags = ["deprecated"] if field.GetOptions().deprecated else []
        if field.containing_oneof is not None:
            flags.append(f"oneof:{field.containing_oneof.name}")
        found.append([field.number, field.name, kind, *flags])
    return sorted(found)


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/gen-proto", tmp_path],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    made = sorted(p.name for p in (tmp_path / HOME).iterdir())
    assert made == ["cri.proto", "cri_pb2.py", "cri_pb2.pyi", "cri_pb2_grpc.py", "cri_pb2_grpc.pyi"]
    for name in made:
        assert (tmp_path / HOME / name).read_bytes() == (REPOSITORY / "src" / HOME / name).read_bytes(), name


def test_every_field_has_the_number_and_type_of_the_facts() -> None:
    compiled = {name: facts_of(m) for name, m in cri_pb2.DESCRIPTOR.message_types_by_name.items()}
    assert compiled == {name: sorted(fields) for name, fields in FACTS["messages"].items()}


def test_every_enum_has_the_values_of_the_facts() -> None:
    enums = list(cri_pb2.DESCRIPTOR.enum_types_by_name.values())
    for message in cri_pb2.DESCRIPTOR.message_types_by_name.values():
        enums += message.enum_types
    compiled = {e.full_name.removeprefix("runtime.v1."): {v.name: v.number for v in e.values} for e in enums}
    assert compiled == FACTS["enums"]


def test_every_service_has_the_methods_of_the_facts() -> None:
    compiled = {
        name: [
            [m.name, m.input_type.name, ("stream " if m.server_streaming else "") + m.output_type.name]
            for m in service.methods
        ]
        for name, service in cri_pb2.DESCRIPTOR.services_by_name.items()
    }
    assert compiled == FACTS["services"]
    assert sum(map(len, compiled.values())) == 43
