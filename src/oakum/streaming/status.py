# SPDX-License-Identifier: Apache-2.0
"""What goes over the error channel when all is over: text before version 4, a Kubernetes Status object since.

Spec: Kubernetes API `meta/v1 Status`; the remote command sub-protocols `channel.k8s.io`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from oakum.streaming.requests import Outcome

STRUCTURED_SINCE: Final = 4


def encode_status(outcome: Outcome, version: int) -> bytes:
    """The last message of a stream of this sub-protocol version; empty when there is nothing to say."""
    if version >= STRUCTURED_SINCE:
        return json.dumps(_status(outcome), separators=(",", ":")).encode()
    return _text(outcome).encode()


def _text(outcome: Outcome) -> str:
    if outcome.error:
        return outcome.error
    return f"command terminated with exit code {outcome.exit_code}" if outcome.exit_code else ""


def _status(outcome: Outcome) -> dict[str, Any]:
    if not outcome.error and not outcome.exit_code:
        return {"metadata": {}, "status": "Success"}
    failure: dict[str, Any] = {"metadata": {}, "status": "Failure", "message": _text(outcome)}
    if outcome.error:
        return {
            **failure,
            "reason": "InternalError",
            "code": 500,
            "details": {"causes": [{"message": outcome.error}]},
        }
    # clients read the code from here: one byte, in decimal
    cause = {"reason": "ExitCode", "message": str(outcome.exit_code & 0xFF)}
    return {**failure, "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
