# SPDX-License-Identifier: Apache-2.0
"""Control groups v1, v2 and hybrid: planned as values, applied in a thin loop."""
