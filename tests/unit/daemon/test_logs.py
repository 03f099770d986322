# SPDX-License-Identifier: Apache-2.0
"""Log lines: one event a line whatever is in it, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.daemon.config import LogConfig
from oakum.daemon.logs import TextFormatter, set_level, set_up_logs

log = logging.getLogger("oakum.some.part")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("oakum")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_text_lines() -> None:
    out = io.StringIO()
    set_up_logs(LogConfig(), lambda: "RunPodSandbox", out)
    log.info("rpc", extra={"fields": {"name": "web server", "ms": 1.5, "evil": "x\ny=1"}})
    log.debug("too quiet")
    line = out.getvalue()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO rpc rpc=RunPodSandbox ", line)
    assert line.endswith('name="web server" ms=1.5 evil="x\\ny=1"\n')
    assert line.count("\n") == 1


def test_json_lines_with_a_traceback() -> None:
    out = io.StringIO()
    set_up_logs(LogConfig(format="json", level="debug"), lambda: "", out)
    log.debug("quiet %s", "words")
    try:
        raise ValueError("nothing")
    except ValueError:
        log.exception("failed", extra={"fields": {"reference": "ab"}})
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["level"], first["logger"]) == ("quiet words", "debug", "oakum.some.part")
    assert "rpc" not in first
    assert second["reference"] == "ab"
    assert "ValueError: nothing" in second["traceback"]


def test_the_level_changes_at_any_time() -> None:
    out = io.StringIO()
    set_up_logs(LogConfig(level="warning"), lambda: "", out)
    log.info("one")
    set_level("info")
    log.info("two")
    logging.getLogger("asyncio").info("libraries stay quiet")
    assert [line.split()[2] for line in out.getvalue().splitlines()] == ["two"]


@given(st.text(), st.text())
def test_no_value_and_no_message_breaks_its_line(message: str, value: str) -> None:
    record = logging.LogRecord("oakum", logging.INFO, "", 0, message, (), None)
    record.fields = {"value": value}
    line = TextFormatter(lambda: "").format(record)
    assert len(line.splitlines()) == 1
    found = line[line.rindex(" value=") + 7 :] if " value=" not in value else ""
    if found.startswith('"'):
        assert json.loads(found) == value
