# SPDX-License-Identifier: Apache-2.0
"""The `oakum` command line: parse, call, render."""
