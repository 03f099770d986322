# SPDX-License-Identifier: Apache-2.0
"""The container stack below the kubelet: CRI server, engine, shim and OCI runtime."""

__version__ = "0.1.0"
