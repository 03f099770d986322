# SPDX-License-Identifier: Apache-2.0
"""What the shell offers after Tab: names of containers, images, pods, networks and namespaces. Never fails, it offers less."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from oakum.cli.session import Session
from oakum.errors import OakumError

if TYPE_CHECKING:
    from oakum.engine.engine import Engine
    from oakum.engine.namespace import Namespace


def _engine(ctx: click.Context) -> tuple[Engine, Namespace]:
    """The engine as the half-typed command line names it; it settles nothing and starts nothing."""
    from oakum.engine.engine import Engine

    root = ctx.find_root()
    typed = {**Session.defaults(), **{key: value for key, value in root.params.items() if value}}
    engine = Engine(typed["root"], typed["state"])
    return engine, engine.namespace(typed["namespace"])


def _offer(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})


def complete_container(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of containers."""
    try:
        containers = _engine(ctx)[1].list_containers()
    except OakumError:
        return []
    return _offer([status.config.metadata.name for status in containers], incomplete)


def complete_image(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of images."""
    try:
        images = _engine(ctx)[1].list_images()
    except OakumError:
        return []
    return _offer([name for image in images for name in image.repo_tags], incomplete)


def complete_pod(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of pods."""
    try:
        pods = _engine(ctx)[1].list_sandboxes()
    except OakumError:
        return []
    return _offer([pod.id[:12] for pod in pods if not pod.config.owner], incomplete)


def complete_volume(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of volumes."""
    try:
        volumes = _engine(ctx)[1].volumes.list()
    except OakumError:
        return []
    return _offer([volume.name for volume in volumes], incomplete)


def complete_network(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of networks."""
    try:
        networks = _engine(ctx)[0].networks.list_networks()
    except OakumError:
        return []
    return _offer([info.name for info in networks if info.name], incomplete)


def complete_namespace(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of namespaces."""
    try:
        return _offer(_engine(ctx)[0].namespaces(), incomplete)
    except OakumError:
        return []
