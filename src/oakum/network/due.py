# SPDX-License-Identifier: Apache-2.0
"""What network.db may owe to a sandbox, and whether it owes any. Asked by every command, so it loads nothing else."""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from oakum.errors import SystemFailure

# What can be owed: its hosts file, and its places in networks.
NAMES: Final = "names"
NETWORKS: Final = "networks"
_OLDER: Final = "no such table"


def anything_due(database: str) -> bool:
    """Whether the database at this path is there and something is owed. Raises SystemFailure."""
    if not os.path.exists(database):
        return False
    try:
        connection = sqlite3.connect(database, timeout=60.0)
        try:
            return connection.execute("SELECT 1 FROM due LIMIT 1").fetchone() is not None
        finally:
            connection.close()
    except sqlite3.Error as error:
        if _OLDER in str(error):
            return False  # made by an older version, which owed nothing
        raise SystemFailure("read network database", database, str(error)) from error
