# SPDX-License-Identifier: Apache-2.0
"""The Protocols that every backend fulfils, and their frozen request types."""

import sys

# msgspec asks for typing_extensions first and takes the standard library's typing where it is not installed.
# From Python 3.11 on the two have the same for it, but the former loads `inspect` and costs every command 12 ms.
if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment] - what makes an import fail
    try:
        import msgspec as msgspec
    finally:
        del sys.modules["typing_extensions"]
