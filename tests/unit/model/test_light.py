# SPDX-License-Identifier: Apache-2.0
"""Named tuples, JSON and the rest that is there twice: as light as it gets, and as the standard library has it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.model import jsontext
from oakum.model.light import NamedTuple, TypedDict, once


class Point(NamedTuple):
    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


class Further(Point):
    """A class like any other."""


class Document(TypedDict, total=False):
    name: str


def test_a_named_tuple_is_what_typing_makes() -> None:
    point = Point(1)
    assert (point, point.x, point.y, point.sum) == ((1, 2), 1, 2, 3)
    assert point == Point(x=1, y=2) == Point(1, y=2) == Point._make((1, 2))
    assert point._replace(y=5) == (1, 5)
    assert point._asdict() == {"x": 1, "y": 2}
    assert Point._fields == ("x", "y")
    assert repr(point) == "Point(x=1, y=2)"
    assert hash(point) == hash((1, 2))
    assert isinstance(Further(3), Point)
    assert Further(3).sum == 5
    match point:
        case Point(x, y):
            assert (x, y) == (1, 2)
    with pytest.raises(AttributeError):
        point.x = 3  # type: ignore[misc] # the test


@pytest.mark.parametrize("values", [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})])
def test_wrong_values_are_errors(values: tuple[tuple[int, ...], dict[str, int]]) -> None:
    with pytest.raises(TypeError):
        Point(*values[0], **values[1])


def test_a_replacement_has_to_be_a_field() -> None:
    with pytest.raises(TypeError):
        Point(1)._replace(z=1)


def test_a_typed_dict_is_a_dict() -> None:
    assert type(Document(name="x")) is dict


def test_once_is_once() -> None:
    calls: list[int] = []
    function = once(lambda: calls.append(1) or len(calls))
    assert (function(), function(), calls) == (1, 1, [1])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES, st.integers(1, 4))
def test_json_is_that_of_the_standard_library(value: Any, indent: int) -> None:
    assert jsontext.dumps(value) == json.dumps(value, separators=(",", ":"))
    assert jsontext.pretty(value, indent) == json.dumps(value, indent=indent)
    assert jsontext.loads(jsontext.pretty(value, indent)) == value == json.loads(jsontext.dumps(value))


@given(st.text() | st.text('[]{}:,"0123456789truefalsn .\\u-e \n'))
def test_what_is_no_json_is_none(text: str) -> None:
    try:
        expected: Any = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            jsontext.loads(text)
    else:
        assert repr(jsontext.loads(text)) == repr(expected)


@pytest.mark.parametrize("text", ['{"a"', '{"a":1,}', '"\\x"', '"\n"', "[", "1 2"])
def test_what_is_wrong_is_said_also_where_nobody_has_loaded_json(text: str) -> None:
    program = "import sys; from oakum.model.jsontext import loads\ntry: loads(sys.argv[1])\nexcept ValueError as e: print(len(str(e)) > 5)"
    done = subprocess.run([sys.executable, "-c", program, text], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_values_without_a_form_are_errors() -> None:
    with pytest.raises(TypeError):
        jsontext.dumps({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        jsontext.dumps(float("nan"))
    with pytest.raises(UnicodeDecodeError):
        jsontext.loads(b"\xff")
