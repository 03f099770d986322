# SPDX-License-Identifier: Apache-2.0
"""Which backends a configuration asks for, opened and put together."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from oakum.network.settings import NetworkSettings

if TYPE_CHECKING:
    from oakum.daemon.backends import Backend
    from oakum.daemon.config import Config
    from oakum.engine.engine import Engine

log = logging.getLogger(__name__)


@contextmanager
def opened(config: Config, engine: Engine, network: NetworkSettings) -> Generator[Backend]:
    """The backend that front doors talk to: the native one, or that and Docker's. Raises OakumError."""
    namespace = engine.namespace(config.cri.namespace)
    if not config.uses_docker():
        yield namespace
        return
    # a node without Docker loads none of this
    from oakum.daemon.backends import Backends, Member
    from oakum.daemon.handover import to_docker, to_native
    from oakum.docker.backend import DEFAULT_HOST, DockerBackend

    docker = DockerBackend(
        config.docker.host or DEFAULT_HOST,
        root=config.root,
        state=config.state,
        network=network,
        pause_image=config.docker.pause_image,
    )
    spool = f"{config.root}/docker"
    members = [
        Member(
            "oakum",
            namespace,
            namespace.handlers,
            partial(to_native, docker.images, namespace, directory=spool),
        ),
        Member(
            "docker", docker, docker.handlers, partial(to_docker, namespace, docker.images, directory=spool)
        ),
    ]
    if config.backend == "docker":
        members.reverse()
    try:
        docker.start(lambda line: log.info("recovered", extra={"fields": {"what": line}}))
        yield Backends(members)
    finally:
        docker.close()
