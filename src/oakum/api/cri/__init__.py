# SPDX-License-Identifier: Apache-2.0
"""The CRI v1 front door: protobuf in, backend calls out."""
