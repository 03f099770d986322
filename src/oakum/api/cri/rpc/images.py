# SPDX-License-Identifier: Apache-2.0
"""ListImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.chunks import chunks
from oakum.api.cri.convert.images import read_auth, read_image_name, write_image
from oakum.api.cri.convert.runtime import image_info
from oakum.api.cri.convert.stats import write_filesystem
from oakum.api.cri.rpc.base import Context, ImageRpcs


class ImageServiceRpcs(ImageRpcs):
    """The whole of ImageService."""

    async def ListImages(self, request: pb.ListImagesRequest, _context: Context) -> pb.ListImagesResponse:
        """All images, or the one that the filter names. Spec: CRI v1 ListImages."""
        wanted = request.filter.image.image
        found = await self.calls.quick(self.images.list_images, wanted)
        return pb.ListImagesResponse(images=[write_image(i) for i in found])

    async def StreamImages(
        self, request: pb.StreamImagesRequest, _context: Context
    ) -> AsyncIterator[pb.StreamImagesResponse]:
        """As ListImages, in pieces. Spec: CRI v1 StreamImages."""
        found = await self.calls.quick(self.images.list_images, request.filter.image.image)
        for piece in chunks(write_image(i) for i in found):
            yield pb.StreamImagesResponse(images=piece)

    async def ImageStatus(self, request: pb.ImageStatusRequest, _context: Context) -> pb.ImageStatusResponse:
        """One image; an answer without one means that there is none. Spec: CRI v1 ImageStatus."""
        image = await self.calls.quick(self.images.image_status, read_image_name(request.image))
        if image is None:
            return pb.ImageStatusResponse()
        info = None
        if request.verbose:
            info = image_info(await self.calls.quick(self.images.image_document, image.id))
        return pb.ImageStatusResponse(image=write_image(image), info=info)

    async def PullImage(self, request: pb.PullImageRequest, _context: Context) -> pb.PullImageResponse:
        """Bring an image; its id. A client that gives up ends the pull. Spec: CRI v1 PullImage."""
        name = read_image_name(request.image)
        auth = read_auth(request.auth) if request.HasField("auth") else None
        gone = threading.Event()
        try:
            image_id = await self.calls.patient(
                self.images.pull_image, name, auth=auth, cancelled=gone.is_set
            )
        except asyncio.CancelledError:
            gone.set()
            raise
        return pb.PullImageResponse(image_ref=image_id)

    async def RemoveImage(self, request: pb.RemoveImageRequest, _context: Context) -> pb.RemoveImageResponse:
        """Forget an image with all its names; succeeds for what is gone. Spec: CRI v1 RemoveImage."""
        await self.calls.patient(self.images.remove_image, read_image_name(request.image))
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, _request: pb.ImageFsInfoRequest, _context: Context) -> pb.ImageFsInfoResponse:
        """Where images and containers' writable layers lie: the same places here. Spec: CRI v1 ImageFsInfo."""
        usages = await self.calls.quick(self.images.image_filesystems)
        messages = [m for m in map(write_filesystem, usages) if m is not None]
        return pb.ImageFsInfoResponse(image_filesystems=messages, container_filesystems=messages)
