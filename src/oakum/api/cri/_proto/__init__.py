# SPDX-License-Identifier: Apache-2.0
"""Generated protobuf code of CRI v1, and the table of facts it is made from; see scripts/gen-proto."""
