# SPDX-License-Identifier: Apache-2.0
"""Names in hosts files: whatever somebody is called, nobody else's file says anything that he may not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.network.names import Neighbour, check_names, merge, render

SELF = Neighbour("back", ("10.9.0.2", "fd00:9::2"), ("host", "web", "0123456789ab"), ("cache",), own=True)
OTHER = Neighbour("back", ("10.9.0.3", "fd00:9::3"), ("dbhost", "db", "ba9876543210"), ("cache", "store"))
STANDARD = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"


def parse(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Address and names of each line, as hosts(5) has it."""
    lines = [line.partition("#")[0].split() for line in text.split("\n")]
    return [(words[0], tuple(words[1:])) for words in lines if words]


def test_each_is_found_by_host_name_name_id_and_aliases_in_both_families() -> None:
    assert parse("\n".join(render([OTHER, SELF]))) == [
        ("10.9.0.2", ("host", "web", "0123456789ab", "cache")),
        ("fd00:9::2", ("host", "web", "0123456789ab", "cache")),
        ("10.9.0.3", ("dbhost", "db", "ba9876543210", "cache", "store")),
        ("fd00:9::3", ("dbhost", "db", "ba9876543210", "cache", "store")),
    ]


def test_repeated_names_are_told_once() -> None:
    same = OTHER._replace(names=("db", "db", "ba9876543210"), aliases=("db",), addresses=("10.9.0.3",))
    assert parse("\n".join(render([same]))) == [("10.9.0.3", ("db", "ba9876543210"))]


def test_nobody_takes_a_containers_own_names_or_those_its_user_chose() -> None:
    thief = OTHER._replace(names=("HOST", "web", "x"), aliases=("Registry.Example",), addresses=("10.9.0.3",))
    assert parse("\n".join(render([thief, SELF], taken=["registry.example"])))[2:] == [("10.9.0.3", ("x",))]
    silent = thief._replace(names=("host", "web", "web"))
    assert len(render([silent, SELF], taken=["registry.example"])) == 2


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-localnet",
        "",
        "a b",
        "a\n10.0.0.1 b",
        "a\tb",
        "a#b",
        "-a",
        ".a",
        "ä",
        "a\x00b",
        "a" * 129,
    ],
)
def test_names_that_mean_oneself_or_break_lines_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name container in network"):
        check_names(["fine", name])


@given(st.lists(st.text(max_size=12)))
def test_names_that_pass_are_one_word_each_and_none_is_localhost(names: list[str]) -> None:
    try:
        check_names(names)
    except InvalidArgument:
        return
    text = merge(STANDARD, render([OTHER._replace(names=tuple(names), aliases=())]))
    assert [line for line in parse(text) if "localhost" in line[1]] == parse(STANDARD)
    assert [set(line[1]) for line in parse(text)[2:]] == ([set(names)] * 2 if names else [])


def test_lines_of_others_stay_and_ours_are_exchanged() -> None:
    first = merge(STANDARD + "192.0.2.1\tadded by hand\n\n", render([SELF, OTHER]))
    second = merge(first + "192.0.2.2\tlater\n", render([SELF]))
    assert second == (
        STANDARD + "192.0.2.1\tadded by hand\n192.0.2.2\tlater\n" + "\n".join(render([SELF])) + "\n"
    )
    assert merge(second, []) == STANDARD + "192.0.2.1\tadded by hand\n192.0.2.2\tlater\n"
    assert merge(merge(first, render([SELF])), render([SELF])) == merge(first, render([SELF]))


@given(st.text(), st.booleans())
def test_a_file_that_a_container_has_spoilt_is_written_all_the_same(text: str, full: bool) -> None:
    lines = render([SELF, OTHER]) if full else []
    merged = merge(text, lines)
    assert merged.endswith("\n")
    assert merged.split("\n")[-1 - len(lines) : -1] == lines
    assert merge(merged, []) == merge(text, [])
