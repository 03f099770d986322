# SPDX-License-Identifier: Apache-2.0
"""Images as volumes: which directories of an image's layers make up a path in it.

A sub path is an image's word taken together with a caller's: it is resolved by descriptor in the merged tree and
cannot leave it. What is mounted are the layers' own directories at that place, so that nothing needs to be kept
mounted until the container starts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from oakum.errors import NotFound, SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.paths import open_in_root, parts

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def directories_at(layers: Sequence[str], sub_path: str, image: str) -> tuple[str, ...]:
    """What to lay over each other, topmost first, to see `sub_path` of the tree that `layers` make; a file is alone.

    Raises:
        NotFound: the image has nothing there.
    """
    if not parts(sub_path):
        return tuple(layers)
    try:
        with _merged(layers) as root, open_in_root(root.fileno(), sub_path, os.O_PATH) as place:
            real = os.readlink(f"/proc/self/fd/{place.fileno()}")
        if len(layers) == 1:
            return (real,)
        return _in_layers(layers, parts(real))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("mount image", image, f"it has no {sub_path!r}") from error
    except OSError as error:
        raise SystemFailure.from_os_error(error, "open image path", f"{sub_path!r} of {image}") from error


def _merged(layers: Sequence[str]) -> Fd:
    if len(layers) == 1:
        return Fd(os.open(layers[0], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    from oakum.linux.mount import overlay  # only sub paths of images with several layers need it

    return overlay(layers)


def _in_layers(layers: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Each layer's own part of a path without links, down to the layer that hides the others."""
    found: list[str] = []
    for layer in layers:
        kind, hides = _look(layer, names)
        path = "/".join((layer, *names))
        if kind == "file":
            return (path,) if not found else tuple(found)
        if kind == "directory":
            found.append(path)
        if hides:
            break
    return tuple(found)


def _look(layer: str, names: Sequence[str]) -> tuple[str, bool]:
    """What a layer has at a path ("directory", "file" or ""), and whether it hides what is below it."""
    hides = False
    current = Fd(os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    try:
        for index, name in enumerate(names):
            try:
                status = os.stat(name, dir_fd=current.fileno(), follow_symlinks=False)
            except FileNotFoundError:
                return "", hides
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                return "", True  # removed in this layer
            if not stat.S_ISDIR(status.st_mode):
                return ("file" if index == len(names) - 1 else ""), True
            deeper = Fd(
                os.open(
                    name,
                    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                    dir_fd=current.fileno(),
                )
            )
            current.close()
            current = deeper
            hides = hides or is_opaque(current.fileno())
        return "directory", hides
    finally:
        current.close()


def is_opaque(directory_fd: int) -> bool:
    """Whether a layer's directory hides what is below it."""
    for name in _OPAQUE:
        try:
            if os.getxattr(directory_fd, name) == b"y":
                return True
        except OSError:
            continue  # it has none, or its file system has none at all
    return False
