# SPDX-License-Identifier: Apache-2.0
"""Rights at a registry, from the form that requests have to the form that registries are asked with, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oakum.backend.config import AuthConfig

if TYPE_CHECKING:
    from oakum.images.credentials import Credentials


def credentials_of(auth: AuthConfig | None) -> Credentials | None:
    """What the caller gave; None where that is nothing. Raises InvalidArgument."""
    if auth is None or auth == AuthConfig():
        return None
    from oakum.images.credentials import from_auth_config  # most pulls need none

    return from_auth_config(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )


def auth_of(found: Credentials | None) -> AuthConfig | None:
    """Found credentials, to be given with a request."""
    if found is None:
        return None
    return AuthConfig(
        username=found.username,
        password=found.password,
        identity_token=found.identity_token,
        registry_token=found.registry_token,
    )
