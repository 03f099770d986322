# SPDX-License-Identifier: Apache-2.0
"""Oakum and its peers side by side on this machine: the same steps in turn in one process, medians and ratios.

Nothing here asserts: a figure says whether it meets its target, and a slow machine fails no build. `make bench`
runs all; `make bench ARGS="pod run --json figures.json"` some.
"""
