# SPDX-License-Identifier: Apache-2.0
"""Root file systems made of layers: overlay and copy.

This package owns the directories below ROOT/snapshots: committed layers, layers being unpacked, and what containers
write. It mounts nothing (the runtime does, inside the container) and it knows nothing of images but chain ids.
"""

from oakum.snapshots.copying import CopySnapshotter
from oakum.snapshots.detect import open_snapshotter
from oakum.snapshots.overlay import OverlaySnapshotter
from oakum.snapshots.protocol import Snapshotter, Usage

__all__ = ["CopySnapshotter", "OverlaySnapshotter", "Snapshotter", "Usage", "open_snapshotter"]
