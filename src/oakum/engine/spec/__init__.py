# SPDX-License-Identifier: Apache-2.0
"""From configurations to an OCI runtime specification: pure functions over values, no input or output."""
