# SPDX-License-Identifier: Apache-2.0
"""Who makes networks, and where CNI is configured. Imports nothing: every call of the command line comes by here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, cast, get_args

from oakum.errors import InvalidArgument

Mode = Literal["auto", "builtin", "cni"]

CONFIG_DIRECTORY: Final = "/etc/cni/net.d"
PLUGIN_DIRECTORIES: Final = ("/opt/cni/bin", "/usr/lib/cni")
# Files that configure a network.
CONFIG_ENDINGS: Final = (".conflist", ".conf", ".json")


class CniSettings(NamedTuple):
    """Where configurations and plugins are, and how long a plugin may take.

    `question_timeout_s` is for STATUS and VERSION, which are asked while somebody waits for an overview.
    """

    config_directory: str = CONFIG_DIRECTORY
    plugin_directories: tuple[str, ...] = PLUGIN_DIRECTORIES
    timeout_s: float = 60.0
    question_timeout_s: float = 10.0


class NetworkSettings(NamedTuple):
    """Who makes networks. "auto": CNI when its configuration directory holds a configuration."""

    mode: Mode = "auto"
    cni: CniSettings = CniSettings()


def from_environment(environment: Mapping[str, str]) -> NetworkSettings:
    """The settings in OAKUM_NETWORK, OAKUM_CNI_CONFIG and OAKUM_CNI_PATH (as CNI_PATH). Raises InvalidArgument."""
    mode = environment.get("OAKUM_NETWORK", "auto")
    if mode not in get_args(Mode):
        raise InvalidArgument("read OAKUM_NETWORK", repr(mode), f"not one of {', '.join(get_args(Mode))}")
    path = tuple(filter(None, environment.get("OAKUM_CNI_PATH", "").split(":")))
    cni = CniSettings(environment.get("OAKUM_CNI_CONFIG", CONFIG_DIRECTORY), path or PLUGIN_DIRECTORIES)
    return NetworkSettings(cast("Mode", mode), cni)


def has_configuration(directory: str) -> bool:
    """Whether somebody has put a configuration there, right or wrong."""
    try:
        return any(name.endswith(CONFIG_ENDINGS) for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
