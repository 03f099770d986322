# SPDX-License-Identifier: Apache-2.0
"""Images and registry credentials."""

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import present, refusal
from oakum.backend.config import AuthConfig
from oakum.backend.status import Image


def read_image_name(message: pb.ImageSpec, field: str = "image") -> str:
    """The reference, digest or id that names an image. Raises InvalidArgument when there is none."""
    return present(f"{field}.image", message.image or message.image_ref)


def read_auth(message: pb.AuthConfig, field: str = "auth") -> AuthConfig:
    """Credentials for one registry. Raises InvalidArgument for what no header can hold, and never shows it."""
    for name in ("auth", "identity_token", "registry_token"):
        text: str = getattr(message, name)
        if not (text.isascii() and (text.isprintable() or not text)):
            raise refusal(f"{field}.{name}", "holds more than printable ASCII")
    return AuthConfig(
        username=message.username,
        password=message.password,
        auth=message.auth,
        server_address=message.server_address,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )


def write_image(image: Image) -> pb.Image:
    """One image of the store."""
    return pb.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size_bytes,
        uid=None if image.uid is None else pb.Int64Value(value=image.uid),
        username=image.username,
        spec=pb.ImageSpec(image=image.id, annotations=image.annotations),
        pinned=image.pinned,
    )
