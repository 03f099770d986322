# SPDX-License-Identifier: Apache-2.0
"""Limiting what a link sends: the token bucket filter as its root queue. Pure builders of requests.

Source: rtnetlink(7), linux/pkt_sched.h; tc-tbf(8) for what the numbers mean.
"""

from __future__ import annotations

import errno
import socket
import struct

from oakum.linux.netlink import NLM_F_CREATE, NLM_F_REPLACE, Request, attribute, nested, text, u32
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_RTM_NEWQDISC: Final = 36
_RTM_DELQDISC: Final = 37
_TCMSG: Final = struct.Struct("=BxxxiIII")
_TC_H_ROOT: Final = 0xFFFFFFFF
_HANDLE: Final = 1 << 16
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2
_TCA_TBF_PARMS: Final = 1
_TCA_TBF_RATE64: Final = 4
_TCA_TBF_BURST: Final = 6
# struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_RATE: Final = struct.Struct("=BBHhHI")
_LINKLAYER_ETHERNET: Final = 1
# after two of them in struct tc_tbf_qopt: limit, buffer, mtu
_TBF_REST: Final = struct.Struct("=III")
_RATE32_LIMIT: Final = 0xFFFFFFFF
# A bucket holds a large segmented packet at least (64 KiB), and 10 ms at the rate; the queue behind it 25 ms.
_LEAST_BURST_BYTES: Final = 80 << 10
_BURST_S: Final = 0.010
_QUEUE_S: Final = 0.025
_NOTHING_TO_DELETE: Final = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})


def limit_rate(index: int, bits_per_s: int, *, subject: str) -> Request:
    """Let the link with this index send at most so many bits a second; replaces another limit."""
    rate = max(bits_per_s // 8, 1)
    burst = min(max(_LEAST_BURST_BYTES, int(rate * _BURST_S)), _RATE32_LIMIT >> 1)
    limit = min(burst + int(rate * _QUEUE_S), _RATE32_LIMIT)
    spec = _RATE.pack(0, _LINKLAYER_ETHERNET, 0, -1, 0, min(rate, _RATE32_LIMIT))
    parameters = spec + bytes(_RATE.size) + _TBF_REST.pack(limit, 0, 0)
    options = [attribute(_TCA_TBF_PARMS, parameters), u32(_TCA_TBF_BURST, burst)]
    if rate > _RATE32_LIMIT:
        options.append(attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate)))
    payload = (
        _TCMSG.pack(socket.AF_UNSPEC, index, _HANDLE, _TC_H_ROOT, 0)
        + text(_TCA_KIND, "tbf")
        + nested(_TCA_OPTIONS, *options)
    )
    return Request(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, payload, "limit rate of", subject)


def lift_limit(index: int, *, subject: str) -> Request:
    """Let a link send as it can; one without a limit is fine."""
    payload = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)
    return Request(_RTM_DELQDISC, 0, payload, "lift rate limit of", subject, _NOTHING_TO_DELETE)
