# SPDX-License-Identifier: Apache-2.0
"""Whose rights a pull or push has: what was given on the command line, else what docker's configuration knows.

Only commands look there: the server uses what the kubelet sends with a request, and nothing else.
"""

from __future__ import annotations

import sys

from oakum.backend.config import AuthConfig
from oakum.engine.registry_auth import auth_of
from oakum.errors import InvalidArgument
from oakum.images.credentials import load_docker_credentials
from oakum.images.reference import is_image_id, parse_reference


def parse_credentials(given: str | None) -> AuthConfig | None:
    """The credentials of "USER:PASSWORD"; "-" reads them from standard input, as a command line shows in `ps`.

    Raises:
        InvalidArgument: no colon in it.
    """
    if given is None:
        return None
    pair = sys.stdin.readline().rstrip("\r\n") if given == "-" else given
    user, colon, password = pair.partition(":")
    if not colon or not user:
        raise InvalidArgument(
            "parse --creds", "", "not USER:PASSWORD", hint="or give - and write them to standard input"
        )
    return AuthConfig(username=user, password=password)


def configured_credentials(image: str) -> AuthConfig | None:
    """What docker's configuration has for an image's registry; None when nothing.

    Raises:
        InvalidArgument: `image` is no reference, or docker's configuration is damaged.
        Unauthenticated: a credential helper failed.
    """
    if is_image_id(image):
        return None
    return auth_of(load_docker_credentials(parse_reference(image).domain))
