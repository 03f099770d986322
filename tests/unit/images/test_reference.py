# SPDX-License-Identifier: Apache-2.0
"""References mean what every other container tool takes them for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.images.reference import Reference, is_image_id, parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b:tag", "localhost:5000/a/b:tag", "localhost:5000/a/b:tag"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("quay.io/a/b/c/d", "quay.io/a/b/c/d:latest", "quay.io/a/b/c/d:latest"),
        ("HOST/app", "HOST/app:latest", "HOST/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"a.b/c:1@{DIGEST}", f"a.b/c:1@{DIGEST}", f"a.b/c:1@{DIGEST}"),
        ("a__b/c-d---e.f", "docker.io/a__b/c-d---e.f:latest", "a__b/c-d---e.f:latest"),
    ],
)
def test_what_people_type(text: str, canonical: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar
    assert parse_reference(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "a:",
        "a b",
        "Upper/Case/Name:x y",
        "library/UPPER",
        "a//b",
        "a/../b",
        "../a",
        "a@sha256:12",
        "a@md5:" + "a" * 32,
        f"a@{DIGEST.upper()}",
        "a:" + "t" * 129,
        "x/" + "y" * 300,
        "-host-.io/a",
        "host:123456/a",
        "ab" * 32,
        "a:tag:tag",
        "a\n",
        "a:b\n",
        "é/a",
        "host.io/",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_reference(text)


def test_a_capital_name_gets_a_hint() -> None:
    with pytest.raises(InvalidArgument, match="lower case"):
        parse_reference("quay.io/Team/App")


def test_the_digest_decides_over_the_tag() -> None:
    reference = parse_reference(f"quay.io/a:1@{DIGEST}")
    assert reference.target == DIGEST


def test_ids_are_told_from_names() -> None:
    assert is_image_id("ab" * 32)
    assert is_image_id(DIGEST)
    assert not is_image_id("busybox")


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(reference.canonical) == reference
    assert parse_reference(reference.familiar) == reference


part = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?", fullmatch=True)


@given(
    st.sampled_from(["docker.io", "localhost:5000", "quay.io", "10.0.0.1:80"]),
    st.lists(part, min_size=1, max_size=4),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
)
def test_canonical_names_are_kept_as_they_are(domain: str, path: list[str], tag: str) -> None:
    if domain == "docker.io" and len(path) == 1:
        path = ["library", *path]
    reference = Reference(domain, "/".join(path), tag)
    assert parse_reference(reference.canonical) == reference
