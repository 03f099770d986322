# SPDX-License-Identifier: Apache-2.0
"""The attach framing: what goes in comes out, however the kernel cuts it; garbage ends the stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.shim import frames

FRAMES = st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=300)), max_size=20)


@given(FRAMES, st.lists(st.integers(1, 400), max_size=40))
def test_frames_survive_any_cutting(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    decoder = frames.Decoder()
    received: list[tuple[int, bytes]] = []
    for cut in cuts:
        received += decoder.feed(stream[:cut])
        stream = stream[cut:]
    received += decoder.feed(stream)
    assert received == sent


@given(st.binary(max_size=2000))
def test_garbage_is_refused_or_understood_but_never_crashes(data: bytes) -> None:
    try:
        for kind, payload in frames.Decoder().feed(data):
            assert kind <= frames.CLOSE_STDIN
            assert len(payload) <= frames.MAX_PAYLOAD_BYTES
    except frames.BadFrame:
        pass


def test_an_announced_gigabyte_is_refused_before_it_is_stored() -> None:
    with pytest.raises(frames.BadFrame):
        frames.Decoder().feed(bytes((frames.STDIN,)) + (1 << 30).to_bytes(4, "big"))
    with pytest.raises(frames.BadFrame):
        frames.encode(frames.STDOUT, bytes(frames.MAX_PAYLOAD_BYTES + 1))
