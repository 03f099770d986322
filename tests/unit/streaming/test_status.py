# SPDX-License-Identifier: Apache-2.0
"""How an end is told, by version."""

from __future__ import annotations

import json

from oakum.streaming.requests import Outcome
from oakum.streaming.status import encode_status


def test_before_version_4_there_is_text_and_only_when_something_went_wrong() -> None:
    for version in (1, 2, 3):
        assert encode_status(Outcome(), version) == b""
        assert encode_status(Outcome(exit_code=3), version) == b"command terminated with exit code 3"
        assert encode_status(Outcome(error="no shell"), version) == b"no shell"


def test_since_version_4_there_is_always_an_object() -> None:
    for version in (4, 5):
        assert json.loads(encode_status(Outcome(), version)) == {"metadata": {}, "status": "Success"}
        failed = json.loads(encode_status(Outcome(exit_code=137), version))
        assert (failed["status"], failed["reason"]) == ("Failure", "NonZeroExitCode")
        assert failed["details"] == {"causes": [{"reason": "ExitCode", "message": "137"}]}
        broken = json.loads(encode_status(Outcome(error="no shell"), version))
        assert (broken["reason"], broken["code"], broken["message"]) == ("InternalError", 500, "no shell")
