# SPDX-License-Identifier: Apache-2.0
"""Docker's user and groups for what CRI means."""

from __future__ import annotations

from typing import Any

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata
from oakum.docker.users import Accounts, Users, parse
from oakum.errors import InvalidArgument

ACCOUNTS = parse(
    "root:x:0:0::/:/bin/sh\nworker:x:1000:1001::/:/bin/sh\nbroken\n#c:x:5:5\n",
    "root:x:0:\nstaff:x:50:worker,other\nno:x:abc:worker\nmore:x:60:worker\n",
)


class Known(Users):
    """Accounts without a Docker."""

    def __init__(self) -> None:
        self.asked = 0

    def accounts(self, image_id: str) -> Accounts:
        self.asked += 1
        return ACCOUNTS


@pytest.mark.parametrize(
    ("fields", "image_user", "user", "groups", "asked"),
    [
        ({"user": "1000"}, "", "1000", [], 0),
        ({"user": "1000:7"}, "", "1000:7", ["50", "60"], 1),
        ({"user": "worker:7", "supplemental_groups": (50,)}, "", "worker:7", ["50", "60"], 1),
        ({"user": "1000", "strict_groups": True}, "", "1000:1001", [], 1),
        ({"user": "1000:7", "strict_groups": True, "supplemental_groups": (9,)}, "", "1000:7", ["9"], 0),
        ({"user": "4242", "strict_groups": True}, "", "4242:0", [], 1),
        ({"strict_groups": True}, "worker", "worker:1001", [], 1),
        ({}, "", "0", [], 0),
    ],
)
def test_users(fields: dict[str, Any], image_user: str, user: str, groups: list[str], asked: int) -> None:
    users = Known()
    config = ContainerConfig(metadata=ContainerMetadata(name="c"), image="i", **fields)
    found, added = users.chosen(config, "sha256:1", image_user)
    assert (found, list(added), users.asked) == (user, groups, asked)


def test_a_name_that_the_image_does_not_know() -> None:
    config = ContainerConfig(metadata=ContainerMetadata(name="c"), image="i", user="who:5")
    with pytest.raises(InvalidArgument, match="who"):
        Known().chosen(config, "sha256:1", "")
