# SPDX-License-Identifier: Apache-2.0
"""The runtime's command lines, log lines, tables and numbers, without any container."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.cli.oci.arguments import Parsed, Usage, parse
from oakum.cli.oci.entry import command_of
from oakum.cli.oci.events import duration_s
from oakum.cli.oci.listing import table
from oakum.cli.oci.log import JSON, TEXT, render
from oakum.cli.oci.table import COMMANDS
from oakum.cli.oci.template import template
from oakum.cli.oci.updates import resources_of
from oakum.errors import InvalidArgument
from oakum.oci.spec import parse as parse_spec

TABLE = (
    ("flag", ("force", "f"), ""),
    ("text", ("bundle", "b"), ""),
    ("number", ("fds",), ""),
    ("list", ("env", "e"), ""),
)


def test_go_programs_take_one_dash_or_two_and_a_value_either_way() -> None:
    given_ = parse(
        ["-force", "--b", "x", "--fds=3", "-e", "A=1", "--env=B=2", "id"], TABLE, stop_at_word=False
    )
    assert given_ == Parsed({"force": True, "bundle": "x", "fds": 3, "env": ["A=1", "B=2"]}, ["id"])
    assert parse(["--force=false"], TABLE, stop_at_word=False).flag("force") is False


def test_options_after_words_belong_to_the_container_s_command_only_where_there_is_one() -> None:
    assert parse(["id", "-f"], TABLE, stop_at_word=False) == Parsed({"force": True}, ["id"])
    assert parse(["id", "sh", "-f"], TABLE, stop_at_word=True) == Parsed({}, ["id", "sh", "-f"])
    assert parse(["--", "-f"], TABLE, stop_at_word=False) == Parsed({}, ["-f"])


@pytest.mark.parametrize("words", [["--nosuch"], ["--bundle"], ["--fds", "x"], ["--force=7"]])
def test_what_is_wrong_is_said(words: list[str]) -> None:
    with pytest.raises(Usage):
        parse(words, TABLE, stop_at_word=False)


@given(st.lists(st.text(max_size=8), max_size=8), st.booleans())
def test_any_words_are_sorted_or_refused(words: list[str], stop: bool) -> None:
    try:
        parse(words, TABLE, stop_at_word=stop)
    except Usage:
        return


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["--root", "/r", "--log=/l", "create", "x"], "create"),
        (["-root", "run", "exec"], "exec"),
        (["--debug", "run"], "run"),
        ([], ""),
    ],
)
def test_the_command_is_found_before_anything_is_imported(words: list[str], command: str) -> None:
    assert command_of(words) == command


@given(st.text())
def test_a_log_line_is_one_line_of_json(message: str) -> None:
    line = render("error", message, JSON, 0)
    assert line.count("\n") == 1
    assert json.loads(line) == {"level": "error", "msg": message, "time": "1970-01-01T00:00:00Z"}
    assert render("error", message, TEXT, 0).startswith('time="1970-01-01T00:00:00Z" level=error msg="')


def test_tables_are_as_wide_as_callers_expect() -> None:
    text = table([("ID", "PID", "OWNER"), ("a" * 20, "1", "root")])
    assert text == f"ID{' ' * 21}PID         OWNER\n{'a' * 20}   1           root\n"


def test_limits_by_option_and_by_document() -> None:
    options = {"memory": "64M", "cpuset-cpus": "0-1", "pids-limit": "-1"}
    expected = {"cpu": {"cpus": "0-1"}, "memory": {"limit": 64 << 20}, "pids": {"limit": -1}}
    assert resources_of(Parsed(options, []), None) == expected
    assert resources_of(Parsed(options, []), {"pids": {"limit": 5}}) == {"pids": {"limit": 5}}
    for bad in ({"pids-limit": "5M"}, {"memory": "x"}, {"memory": "1.5G"}):
        with pytest.raises(InvalidArgument):
            resources_of(Parsed(bad, []), None)


def test_durations() -> None:
    assert [duration_s(text) for text in ("5s", "500ms", "1m")] == [5, 0.5, 60]
    for bad in ("", "5", "-1s", "s", "0s"):
        with pytest.raises(InvalidArgument):
            duration_s(bad)


@pytest.mark.parametrize("rootless", [True, False])
def test_the_template_is_a_valid_spec(rootless: bool) -> None:
    parse_spec(template(rootless=rootless, uid=1000, gid=1000))


def test_every_command_says_what_it_does() -> None:
    for name, command in COMMANDS.items():
        assert command.help, name
        assert all(option[2] for option in command.options), name
