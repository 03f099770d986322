# SPDX-License-Identifier: Apache-2.0
"""Image references as every container tool reads them: "busybox", "localhost:5000/a/b:tag", "quay.io/x@sha256:...".

Pure text; which registry answers for a domain is `registry.py`'s business.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from oakum.errors import InvalidArgument
from oakum.images.digests import is_digest

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_OFFICIAL: Final = "library/"
_LEGACY_DOMAIN: Final = "index.docker.io"
_NAME_LIMIT: Final = 255

# Source: distribution-spec, "Pulling manifests" (<name>, <reference>); domains as the field's tools take them.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_ID = re.compile(r"[0-9a-f]{64}")


class Reference(NamedTuple):
    """One image by name. `tag` or `digest` may be empty, not both; where both are there the digest decides."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Domain and path, without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def canonical(self) -> str:
        """The whole name with nothing left out: what stores and CRI listings use."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def familiar(self) -> str:
        """The short name that people type: "busybox:latest" for docker.io/library/busybox:latest."""
        name = self.repository
        if self.domain == DEFAULT_DOMAIN:
            name = self.path.removeprefix(_OFFICIAL) if self.path.count("/") == 1 else self.path
        return name + self.canonical.removeprefix(self.repository)

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.canonical


def parse_reference(text: str) -> Reference:
    """The reference that `text` means, with docker.io, library/ and :latest filled in where left out.

    Raises:
        InvalidArgument: `text` is no reference.
    """
    name, has_digest, digest = text.partition("@")
    if has_digest and not is_digest(digest):
        raise _invalid(text, "the part behind '@' is not a digest")
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        if not _TAG.fullmatch(tag):
            raise _invalid(text, f"{tag!r} is not a tag")
        name = head
    else:
        tag = ""
    domain, path = _split_domain(name)
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{domain!r} is not a registry")
    if not path:
        raise _invalid(text, "the name is empty")
    if not _PATH.fullmatch(path):
        hint = "names are lower case" if path.lower() != path else "use a-z, 0-9, '.', '_', '-' and '/'"
        raise _invalid(text, f"{path!r} is not a name", hint=hint)
    if len(domain) + 1 + len(path) > _NAME_LIMIT:
        raise _invalid(text, f"the name is longer than {_NAME_LIMIT} characters")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag, digest)


def is_image_id(text: str) -> bool:
    """Whether `text` is an image's id (64 hexadecimal digits or a digest) and not a name."""
    return is_digest(text) or _ID.fullmatch(text) is not None


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    # A first part is a host only where it cannot be a name: with a dot, a port, or capital letters.
    is_host = slash and (any(c in first for c in ".:[") or first == "localhost" or first.lower() != first)
    domain, path = (first, rest) if is_host else (DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and path and "/" not in path:
        if _ID.fullmatch(path):
            raise InvalidArgument(
                "read image reference",
                repr(name),
                "this is an image id, not a name",
                hint="use name@sha256:...",
            )
        path = _OFFICIAL + path
    return domain, path


def _invalid(text: str, cause: str, *, hint: str = "") -> InvalidArgument:
    return InvalidArgument("read image reference", repr(text[:300]), cause, hint=hint)
