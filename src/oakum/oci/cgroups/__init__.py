# SPDX-License-Identifier: Apache-2.0
"""Control groups v1, v2 and hybrid: planned as values, applied in a thin loop."""

from oakum.oci.cgroups.group import Cgroup
from oakum.oci.cgroups.layout import Hierarchy, Layout, detect_layout

__all__ = ["Cgroup", "Hierarchy", "Layout", "detect_layout"]
