# SPDX-License-Identifier: Apache-2.0
"""The best image for a machine is chosen, and one that it cannot run never."""

from __future__ import annotations

import pytest

from oakum.images.platforms import Platform, host_platform, rank

AMD64 = Platform("linux", "amd64")


def platform(text: str) -> Platform:
    return Platform(*text.split("/")).normalized()


@pytest.mark.parametrize(
    ("wanted", "offers", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/386", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/386", "windows/amd64"], "linux/386"),
        ("linux/amd64", ["linux/amd64/v2", "linux/arm64"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64"),
        ("linux/s390x", ["linux/amd64"], None),
    ],
)
def test_the_best_of_several(wanted: str, offers: list[str], best: str | None) -> None:
    ranked = {offer: rank(platform(wanted), platform(offer)) for offer in offers}
    fitting = {offer: position for offer, position in ranked.items() if position is not None}
    chosen = min(fitting, key=lambda offer: fitting[offer]) if fitting else None
    assert (platform(chosen) if chosen else None) == (platform(best) if best else None)


def test_what_an_image_leaves_unsaid_fits_but_comes_last() -> None:
    unsaid = rank(AMD64, Platform())
    said = rank(AMD64, AMD64)
    assert unsaid is not None
    assert said is not None
    assert unsaid > said


def test_spellings_are_folded() -> None:
    assert platform("Linux/x86_64") == AMD64
    assert platform("linux/aarch64") == Platform("linux", "arm64", "v8")
    assert rank(platform("linux/arm64"), Platform("linux", "arm64")) == 0
    assert str(Platform("linux", "arm", "v7")) == "linux/arm/v7"


def test_this_machine_is_one() -> None:
    host = host_platform()
    assert host.os == "linux"
    assert rank(host, host) == 0
