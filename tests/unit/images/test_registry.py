# SPDX-License-Identifier: Apache-2.0
"""Which hosts may be spoken to in the clear, and how long a registry is waited for."""

from __future__ import annotations

import email.utils
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.images.registry import is_loopback, pause_before, retry_after_s, tls_context


@pytest.mark.parametrize(
    "domain", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:80", "a.localhost"]
)
def test_loopback(domain: str) -> None:
    assert is_loopback(domain)


@pytest.mark.parametrize(
    "domain", ["docker.io", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "[::2]", ""]
)
def test_not_loopback(domain: str) -> None:
    assert not is_loopback(domain)


def test_retry_after_in_seconds_and_as_a_date() -> None:
    now = time.time()
    assert retry_after_s("7", now) == 7
    date = email.utils.formatdate(now + 30, usegmt=True)
    assert 28 < retry_after_s(date, now) < 32
    assert retry_after_s(email.utils.formatdate(now - 30, usegmt=True), now) == 0


@given(st.text(max_size=60))
def test_any_retry_after_is_some_seconds(text: str) -> None:
    assert retry_after_s(text, 0) >= 0


def test_pauses_grow_but_not_without_end() -> None:
    assert pause_before(1) < pause_before(3) < pause_before(6)
    assert pause_before(60) < 60


def test_authorities_are_read_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tls_context()
    assert tls_context() is first
    authorities = tmp_path / "ca.pem"
    authorities.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    other = tls_context()
    assert other is not first
    os.utime(authorities, ns=(1, 1))
    assert tls_context() is not other
