# SPDX-License-Identifier: Apache-2.0
"""Tests of `oakum.docker` that need no Docker."""
