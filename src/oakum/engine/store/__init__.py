# SPDX-License-Identifier: Apache-2.0
"""The engine's database: schema, typed rows, transactions. Nothing outside knows SQL."""
