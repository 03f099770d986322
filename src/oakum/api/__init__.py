# SPDX-License-Identifier: Apache-2.0
"""Front doors: translation only."""
