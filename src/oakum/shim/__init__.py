# SPDX-License-Identifier: Apache-2.0
"""Zygote, per-pod supervisor, wire protocol, stdio and logs; standard library only."""
