# SPDX-License-Identifier: Apache-2.0
"""Exec, attach and port-forward for remote clients: SPDY/3.1 and WebSocket, sans-io at the core."""
