# SPDX-License-Identifier: Apache-2.0
"""Root file systems made of layers: overlay and copy."""
