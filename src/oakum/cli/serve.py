# SPDX-License-Identifier: Apache-2.0
"""`oakum serve`: read the options, hand on to the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from oakum.cli.lazy import TeachingCommand
from oakum.cli.session import Session, pass_session

if TYPE_CHECKING:
    from oakum.daemon.config import BackendName, Config, LogFormat, LogLevel


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum serve", "Answer the kubelet on unix:///run/oakum/cri.sock."),
        (
            "oakum --root /srv/a --state /run/a serve --cri-listen unix:///run/a/cri.sock",
            "A second server beside it.",
        ),
        (
            "oakum serve --backend docker --docker-host unix:///var/run/docker.sock",
            "The same, over a Docker Engine.",
        ),
    ),
)
@click.option("--config", "config_path", metavar="FILE", help="A TOML file; options win over it.")
@click.option(
    "--cri-listen",
    multiple=True,
    metavar="ADDRESS",
    help="Where CRI is answered, as unix:///PATH; may be given several times.  [default: cri.sock in --state]",
)
@click.option(
    "--backend",
    type=click.Choice(["native", "docker"]),
    help="Who runs a pod that names no runtime handler.  [default: native]",
)
@click.option(
    "--docker-host",
    metavar="ADDRESS",
    help="A Docker Engine on this host: pods may then ask for the handlers docker, runc and its others.",
)
@click.option("--pause-image", metavar="IMAGE", help="What sandboxes in Docker run.  [default: built here]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How it is logged.")
@click.pass_context
@pass_session
def serve(
    session: Session,
    ctx: click.Context,
    *,
    config_path: str | None,
    cri_listen: tuple[str, ...],
    backend: BackendName | None,
    docker_host: str | None,
    pause_image: str | None,
    log_level: LogLevel | None,
    log_format: LogFormat | None,
) -> None:
    """Answer the kubelet (CRI v1) on a unix socket, until SIGTERM.

    Containers outlive the server: stop it, kill it, upgrade it, start it again.
    SIGHUP reads the log level from the configuration file again.
    """
    # the daemon brings gRPC: only this command pays for it
    from oakum.daemon.config import Config, load_config, with_options
    from oakum.daemon.server import serve as serve_daemon

    def given(name: str, value: str) -> str | None:
        source = ctx.find_root().get_parameter_source(name)
        return None if source in (None, click.core.ParameterSource.DEFAULT) else value

    def configuration() -> Config:
        return with_options(
            load_config(config_path) if config_path else Config(),
            root=given("root", session.root),
            state=given("state", session.state),
            cri_listen=cri_listen,
            log_level=log_level,
            log_format=log_format,
            backend=backend,
            docker_host=docker_host,
            pause_image=pause_image,
        )

    serve_daemon(configuration(), configuration if config_path else None)
