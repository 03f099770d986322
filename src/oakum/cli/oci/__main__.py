# SPDX-License-Identifier: Apache-2.0
"""`python3 -IS .../oakum/cli/oci`: `oakum oci` without the `site` module, as the script `oakum-oci` calls it.

Compiled at every start, so it is short. It finds the directory of packages, which nobody has without `site`, and runs `start`
without the three packages above that, which it finds faster.
"""

import sys

_root = __file__.rpartition("/oakum/")[0]
sys.path[:0] = [_root]
_names = {"__name__": "oakum.cli.oci.start", "__file__": f"{_root}/oakum/cli/oci/start.py"}
_loader = type(__loader__)(*_names.values())
exec(_loader.get_code(_names["__name__"]), _names)  # noqa: S102 - the .pyc file, as imports do
_names["main"](site=True)  # pyright: ignore[reportCallIssue] - defined by the line above
