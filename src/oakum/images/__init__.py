# SPDX-License-Identifier: Apache-2.0
"""References, registry client, content store, manifests, unpacking and archives."""
