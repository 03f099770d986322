# SPDX-License-Identifier: Apache-2.0
"""CVE-2021-43784: a length of 16 bits that overflowed, so that part of a text was taken for attributes of its own.

The broken runtime told its child by netlink attributes what to set up; ours inherits it with the fork. Netlink is what we
speak with the kernel: there, too, a length that does not fit is an error and never cut.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from oakum.linux import netlink
from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime

# What the attacker wants to be read: attribute 7 with the four bytes "evil".
EVIL = struct.pack("=HH", 8, 7) + b"evil"
# So long that the length with its header is 65536 and 4 more: cut to 16 bits, an empty attribute.
OVERFLOWING = EVIL + bytes(65536 - len(EVIL))


def cut(kind: int, data: bytes) -> bytes:
    """An attribute as the broken program made it."""
    return struct.pack("=HH", (4 + len(data)) & 0xFFFF, kind) + data


def test_cve_2021_43784_a_length_that_does_not_fit_is_refused() -> None:
    for length in (65532, 65533, len(OVERFLOWING), 1 << 20):
        with pytest.raises(ValueError, match="netlink attribute 3 of"):
            netlink.attribute(3, OVERFLOWING.ljust(length, b"\0")[:length])
    with pytest.raises(ValueError, match="netlink attribute"):
        netlink.nested(3, netlink.attribute(1, bytes(40000)), netlink.attribute(2, bytes(40000)))


def test_cve_2021_43784_control() -> None:
    found = netlink.parse_attributes(cut(3, OVERFLOWING)[: 4 + len(EVIL)])
    assert found == {3: b"", 7: b"evil"}


def test_cve_2021_43784_the_longest_that_fits_goes_through() -> None:
    longest = bytes(65531)
    assert netlink.parse_attributes(netlink.attribute(3, longest)) == {3: longest}


def test_cve_2021_43784_no_text_of_a_spec_is_read_as_anything_else(runtime: Runtime) -> None:
    evil = "/" + "x" * (65536 - 9)
    for kind in ("network", "ipc"):
        others = [{"type": k} for k in NAMESPACES if k != kind]
        runtime.write(
            "true", linux={"namespaces": [*others, {"type": kind, "path": f"{evil}/proc/1/ns/net"}]}
        )
        done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert (done.returncode, "File name too long" in done.stderr) == (1, True), done.stderr[-300:]
    assert runtime("list", "-q").stdout == ""
    # What may be long is: 340 mappings are the kernel's limit, and texts of any length reach the process whole.
    long = "A=" + "b" * 70000
    runtime.write(
        "sh",
        "-c",
        "echo ${#A} $(env | wc -l)",
        process={"env": [long, "PATH=/bin", *(f"V{n}={n}" for n in range(2000))]},
    )
    done = runtime("run", "-b", runtime.bundle, runtime.new_id())
    assert done.stdout.split()[0] == "70000"
    assert int(done.stdout.split()[1]) >= 2002
    spec = json.loads(Path(runtime.bundle, "config.json").read_text())
    assert len(spec["process"]["env"]) == 2002
