# SPDX-License-Identifier: Apache-2.0
"""Bridge, addresses, port maps, and the files that name hosts.

`builtin` is the way in; `files` renders text and touches nothing. This package owns network.db, its bridges, its
nftables table and nothing else on the host.
"""
