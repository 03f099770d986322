# SPDX-License-Identifier: Apache-2.0
"""The native engine: pods, containers, images and their state on disk."""
