# SPDX-License-Identifier: Apache-2.0
"""Composition root of `oakum serve`."""
