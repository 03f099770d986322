# SPDX-License-Identifier: Apache-2.0
"""The Protocols that every backend fulfils, and their frozen request types."""
