# SPDX-License-Identifier: Apache-2.0
"""Names for containers that were given none: two words from the shipyard."""

from __future__ import annotations

import random
from typing import Final

_QUALITIES: Final = """
able amber ancient bold brave bright brisk calm clever copper cosy daring deft eager early
faithful fair fleet fresh gallant gentle golden hardy hearty honest jolly keen kind lively
loyal lucky mellow merry mighty nimble noble patient placid plucky proud quick quiet ready
salty seasoned sharp silver sleek spry stalwart staunch steady stout sturdy sunny swift tidy
trim trusty watertight willing windward wise zesty
"""
_THINGS: Final = """
anchor ballast barge beacon binnacle boatswain bollard bosun bowline bowsprit buoy cabin cable
capstan caulker clipper cockpit compass coracle cutter deckhand dinghy dory ferry focsle galley
gangway gunwale halyard harbour hatch hawser helm hull jetty keel ketch lantern lighter lugger
mainsail mallet mariner mast oar packet pilot plank porthole quay rigger rudder sailor schooner
seam sextant shipwright skiff sloop spar spinnaker starboard tender tiller topsail trawler
tugboat windlass yawl
"""


def random_name() -> str:
    """A name such as "stout_capstan"; not necessarily free."""
    return f"{random.choice(_QUALITIES.split())}_{random.choice(_THINGS.split())}"
