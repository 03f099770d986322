# SPDX-License-Identifier: Apache-2.0
"""Typed system calls, descriptors, mounts, netlink and fork: the only place that touches ctypes."""
