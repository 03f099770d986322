# SPDX-License-Identifier: Apache-2.0
"""The runtime as others call it: containers kept in a state directory, and what can be done to them by name."""
