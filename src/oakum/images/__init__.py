# SPDX-License-Identifier: Apache-2.0
"""Images: references, registries, content, unpacking, archives. Knows no containers and no names of images.

Light to import (no aiohttp, no inflate): `reference`, `digests`, `platforms`, `config`, `manifests`, `content`,
`layers`, `credentials`, `graph`, and the doors `pull`, `push`, `unpack`, `archive`, which load the rest when called.
"""
