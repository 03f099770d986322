# SPDX-License-Identifier: Apache-2.0
"""nftables by its own library: commands in nft's language or as JSON, answers as JSON, no process started.

Source: libnftables(3), libnftables-json(5).
"""

from __future__ import annotations

import ctypes
import json

from oakum.errors import SystemFailure, Unimplemented
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

_LIBRARY: Final = "libnftables.so.1"
_OUTPUT_JSON: Final = 1 << 4
_OUTPUT_HANDLE: Final = 1 << 3
# Lists leave the elements of sets and maps out: nobody here reads them, and there may be many.
_OUTPUT_TERSE: Final = 1 << 11


class Nftables:
    """A context of libnftables in the network namespace of the thread that made it. Not thread-safe."""

    def __init__(self) -> None:
        """Open it. Raises Unimplemented without the library, SystemFailure when the kernel refuses."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise Unimplemented(
                "load nftables", _LIBRARY, str(error), hint="install nftables (Debian: apt install nftables)"
            ) from error
        library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_free.argtypes = (ctypes.c_void_p,)
        library.nft_ctx_free.restype = None
        for buffer in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
            buffer.argtypes = (ctypes.c_void_p,)
            buffer.restype = ctypes.c_int
        for reader in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            reader.argtypes = (ctypes.c_void_p,)
            reader.restype = ctypes.c_char_p
        library.nft_ctx_output_set_flags.argtypes = (ctypes.c_void_p, ctypes.c_uint)
        library.nft_ctx_output_set_flags.restype = None
        library.nft_run_cmd_from_buffer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
        library.nft_run_cmd_from_buffer.restype = ctypes.c_int
        self._library = library
        context = library.nft_ctx_new(0)
        if not context:
            raise SystemFailure("open nftables", _LIBRARY, "the kernel gave no context")
        self._context: int | None = int(context)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_output_set_flags(context, _OUTPUT_JSON | _OUTPUT_HANDLE | _OUTPUT_TERSE)

    def close(self) -> None:
        """Free it; twice is fine."""
        context, self._context = self._context, None
        if context is not None:
            self._library.nft_ctx_free(context)

    def __enter__(self) -> Nftables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def run(self, script: str, *, operation: str, subject: str = "") -> None:
        """Run commands of nft's language, all or none of them.

        Raises:
            SystemFailure: refused, with what nft says about it.
        """
        self._run(script, operation, subject)

    def apply(self, commands: list[dict[str, Any]], *, operation: str, subject: str = "") -> None:
        """Run JSON commands, all or none of them. Raises SystemFailure."""
        self._run(json.dumps({"nftables": commands}), operation, subject)

    def query(self, command: str, *, operation: str, subject: str = "") -> list[dict[str, Any]]:
        """The objects that a list command names, each as {kind: properties}. Raises SystemFailure."""
        output = self._run(command, operation, subject)
        if not output:
            return []
        return [entry for entry in json.loads(output)["nftables"] if "metainfo" not in entry]

    def _run(self, text: str, operation: str, subject: str) -> bytes:
        if self._context is None:
            raise ValueError("nftables context is closed")
        data = text.encode()
        if b"\0" in data:
            raise ValueError("embedded NUL in an nft command")
        status = self._library.nft_run_cmd_from_buffer(self._context, data)
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        said = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if status != 0:
            raise SystemFailure(operation, subject, _first_error(said.decode(errors="replace")))
        return bytes(output)


def _first_error(said: str) -> str:
    """The words of nft's first error, without the drawing that points at the place."""
    for line in said.splitlines():
        _, found, words = line.partition("Error: ")
        if found:
            return f"nft: {words}"
    return f"nft: {said.strip() or 'refused without a word'}"
