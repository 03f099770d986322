# SPDX-License-Identifier: Apache-2.0
"""Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

import ipaddress
import logging

from oakum import __version__
from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.calls import Calls
from oakum.api.cri.convert.checks import refusal
from oakum.api.cri.convert.runtime import runtime_info, write_runtime_status
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.backend.protocols import RuntimeBackend

log = logging.getLogger(__name__)

# what the kubelet calls its own runtime API; every CRI v1 runtime answers so
KUBELET_API_VERSION = "0.1.0"


class RuntimeInfoRpcs(RuntimeRpcs):
    """What the runtime is and how it feels."""

    def __init__(self, runtime: RuntimeBackend, calls: Calls) -> None:
        super().__init__(runtime, calls)
        self._pod_cidr = ""

    async def Version(self, _request: pb.VersionRequest, _context: Context) -> pb.VersionResponse:
        """Name and versions. Spec: CRI v1 Version."""
        return pb.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name="oakum",
            runtime_version=__version__,
            runtime_api_version="v1",
        )

    async def Status(self, request: pb.StatusRequest, _context: Context) -> pb.StatusResponse:
        """Conditions RuntimeReady and NetworkReady, handlers, features. Spec: CRI v1 Status."""
        status = await self.calls.quick(self.runtime.runtime_status, verbose=request.verbose)
        response = write_runtime_status(status)
        if request.verbose:
            info = {**status.info, **({"podCIDR": self._pod_cidr} if self._pod_cidr else {})}
            response.info.update(runtime_info(info))
        return response

    async def RuntimeConfig(
        self, _request: pb.RuntimeConfigRequest, _context: Context
    ) -> pb.RuntimeConfigResponse:
        """The cgroup driver that the kubelet must use too. Spec: CRI v1 RuntimeConfig."""
        driver = await self.calls.quick(self.runtime.cgroup_driver)
        number = pb.SYSTEMD if driver == "systemd" else pb.CGROUPFS
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=number))

    async def UpdateRuntimeConfig(
        self, request: pb.UpdateRuntimeConfigRequest, _context: Context
    ) -> pb.UpdateRuntimeConfigResponse:
        """Take note of the node's pod addresses; the built-in network has its own pool and says so.

        The kubelet reports the node as not ready when this fails, so it only fails for what is no address range.
        Spec: CRI v1 UpdateRuntimeConfig.
        """
        cidr = request.runtime_config.network_config.pod_cidr
        for part in cidr.split(",") if cidr else ():
            try:
                ipaddress.ip_network(part.strip(), strict=False)
            except ValueError:
                raise refusal(
                    "runtime_config.network_config.pod_cidr", f"{part!r} is not an address range"
                ) from None
        if cidr != self._pod_cidr:
            self._pod_cidr = cidr
            log.info("pod addresses stay those of the built-in network", extra={"fields": {"pod_cidr": cidr}})
        return pb.UpdateRuntimeConfigResponse()
