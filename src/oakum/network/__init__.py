# SPDX-License-Identifier: Apache-2.0
"""Bridge, addresses, port maps, and the files that name hosts."""
