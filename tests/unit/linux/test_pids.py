# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process, whatever it is called and however far it has ended."""

from __future__ import annotations

import os
import signal

import pytest

from oakum.linux import pids, process


def test_a_process_is_known_by_its_start_until_it_ends() -> None:
    ready, tell = os.pipe()
    child = process.clone()
    if child == 0:
        process.set_name("a) Z 0 (b")
        os.write(tell, b"1")
        process.run_and_exit(lambda: signal.pause() or 0)
    try:
        assert os.read(ready, 1) == b"1"
        fields = pids.stat_fields(child)
        assert fields[0] in (b"R", b"S")
        assert int(fields[1]) == os.getpid()
        started = pids.start_ticks(child)
        assert started is not None
        assert started >= (pids.start_ticks(os.getpid()) or 0) > 0
        pids.kill_if_there(child)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert pids.stat_fields(child)[0] == b"Z"
        assert pids.start_ticks(child) is None
    finally:
        os.close(ready)
        os.close(tell)
        pids.kill_if_there(child)
        os.waitpid(child, 0)
    assert pids.start_ticks(child) is None
    pids.kill_if_there(child)
    with pytest.raises(FileNotFoundError):
        pids.stat_fields(child)
