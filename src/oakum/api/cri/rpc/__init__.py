# SPDX-License-Identifier: Apache-2.0
"""The RPCs of CRI v1, one module a group: check and convert, call the backend, convert back. Nothing else."""
