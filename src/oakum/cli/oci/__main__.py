# SPDX-License-Identifier: Apache-2.0
"""`python3 -IS .../oakum/cli/oci`: `oakum oci` without the `site` module, as the script `oakum-oci` calls it.

Compiled at every start, so it is short: it finds the directories of packages, which nobody has without `site`.
"""

import sys

_root = __file__.rpartition("/oakum/")[0]
sys.path[:0] = [_root]

from oakum.cli.oci.start import main  # noqa: E402 - through the line above

main(site=True)
