# SPDX-License-Identifier: Apache-2.0
"""Debian's docker-registry as a test's own server: plain or TLS, open or with a password, on a free loopback port.

Owns the registry process and pushing to it over HTTP. What is pushed is built in `images.py`.
"""

from __future__ import annotations

import base64
import ctypes
import os
import re
import secrets
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin

from tests.support.images import (
    Blob,
    BuiltImage,
    Compression,
    Media,
    build_image,
    build_index,
    busybox_layer,
    make_layer,
    tar_entry,
)
from tests.support.patience import patient

__all__ = ["Registry", "busybox_layer", "make_layer", "tar_entry"]

_START_TIMEOUT_S = 20.0
_BCRYPT_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Registry:
    """A running registry: `with Registry(tmp_path) as reg: reg.push_image("library/busybox", "latest", [tar])`.

    `address` is "127.0.0.1:PORT". With `tls`, `ca_path` is the certificate authority to trust.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, tls: bool = False, username: str = "", password: str = ""
    ) -> None:
        self._directory = Path(directory) / f"registry-{secrets.token_hex(4)}"
        self._tls = tls
        self._username, self._password = username, password
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.ca_path = ""

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True)
        if self._tls:
            self._make_certificates()
        config = self._directory / "config.yml"
        config.write_text(self._config())
        self._log = self._directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
                start_new_session=True,
            )
        try:
            self._await_port()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def data(self) -> Path:
        """Where the registry keeps what was pushed."""
        return self._directory / "data"

    def close(self) -> None:
        """End the process; harmless when it is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def push_image(
        self,
        name: str,
        tag: str,
        layers: Sequence[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        media: Media = "docker",
        compression: Compression = "gzip",
        tags: Sequence[str] = (),
    ) -> str:
        """Push an image of `layers` (tars, lowest first) with the inner config object; the manifest's digest."""
        image = build_image(layers, dict(config or {}), media=media, compression=compression)
        return self.push_built(name, (tag, *tags), image)

    def push_built(self, name: str, tags: Sequence[str], image: BuiltImage) -> str:
        """Push a built image under `tags` (none: by digest only); the manifest's digest."""
        for blob in (image.config, *image.layers):
            self.push_blob(name, blob)
        for tag in tags or (image.manifest.digest,):
            self.put_manifest(name, tag, image.manifest)
        return image.manifest.digest

    def push_index(
        self,
        name: str,
        tag: str,
        images: Sequence[tuple[BuiltImage, dict[str, str]]],
        *,
        media: Media = "oci",
    ) -> str:
        """Push images and an index of them by platform; the index's digest."""
        for image, _ in images:
            self.push_built(name, (), image)
        index = build_index(images, media=media)
        self.put_manifest(name, tag, index)
        return index.digest

    def push_blob(self, name: str, blob: Blob) -> None:
        if self.request("HEAD", f"/v2/{name}/blobs/{blob.digest}", ok=(200, 404))[0] == 200:
            return
        _, headers, _ = self.request("POST", f"/v2/{name}/blobs/uploads/", b"")
        location = urljoin(self.url, headers["location"])
        location += ("&" if "?" in location else "?") + f"digest={blob.digest}"
        self.request("PUT", location, blob.data, {"Content-Type": "application/octet-stream"})

    def put_manifest(self, name: str, tag: str, manifest: Blob) -> None:
        self.request(
            "PUT", f"/v2/{name}/manifests/{tag}", manifest.data, {"Content-Type": manifest.media_type}
        )

    def get_manifest(self, name: str, tag: str) -> bytes:
        accept = ", ".join(
            f"application/vnd.{t}+json"
            for t in (
                "docker.distribution.manifest.v2",
                "docker.distribution.manifest.list.v2",
                "oci.image.manifest.v1",
                "oci.image.index.v1",
            )
        )
        return self.request("GET", f"/v2/{name}/manifests/{tag}", headers={"Accept": accept})[2]

    def request(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        ok: Sequence[int] = (200, 201, 202, 204),
    ) -> tuple[int, dict[str, str], bytes]:
        """One request to the registry; status, headers in lower case, body. Raises AssertionError for other statuses."""
        request = urllib.request.Request(
            urljoin(self.url, path), data=data, method=method, headers=dict(headers or {})
        )
        if self._username:
            token = base64.b64encode(f"{self._username}:{self._password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        context = ssl.create_default_context(cafile=self.ca_path) if self._tls else None
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as response:
                status, found, body = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, found, body = error.code, error.headers, error.read()
        assert status in ok, f"{method} {path}: {status} {body[:300]!r}"
        return status, {k.lower(): v for k, v in found.items()}, body

    def _config(self) -> str:
        lines = [
            "version: 0.1",
            "log: {level: info, accesslog: {disabled: true}}",
            f"storage: {{filesystem: {{rootdirectory: {self.data}}}, delete: {{enabled: true}}}}",
        ]
        http = "addr: 127.0.0.1:0, secret: test"
        if self._tls:
            http += f", tls: {{certificate: {self._directory}/server.crt, key: {self._directory}/server.key}}"
        lines.append(f"http: {{{http}}}")
        if self._username:
            htpasswd = self._directory / "htpasswd"
            htpasswd.write_text(f"{self._username}:{_bcrypt(self._password)}\n")
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}")
        return "\n".join(lines) + "\n"

    def _await_port(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + patient(_START_TIMEOUT_S)
        while time.monotonic() < deadline:
            text = self._log.read_text(errors="replace")
            if match := re.search(r"listening on (127\.0\.0\.1:\d+)", text):
                self.address = match[1]
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"docker-registry did not start:\n{self._log.read_text(errors='replace')}")

    def _make_certificates(self) -> None:
        self.ca_path = str(self._directory / "ca.crt")

        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True)

        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        openssl(
            "req",
            "-x509",
            *curve,
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-subj",
            "/CN=oakum test CA",
            "-days",
            "3650",
            *usage,
        )
        openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
        (self._directory / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        sign = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650", "-extfile", "ext"]
        openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", *sign)


def _bcrypt(password: str) -> str:
    # The only hash docker-registry takes; Python's own `crypt` is deprecated, libcrypt itself is not.
    libcrypt = ctypes.CDLL("libcrypt.so.1")
    libcrypt.crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    libcrypt.crypt.restype = ctypes.c_char_p
    salt = "".join(secrets.choice(_BCRYPT_ALPHABET) for _ in range(21)) + "."
    hashed = libcrypt.crypt(password.encode(), f"$2b$05${salt}".encode())
    assert hashed is not None
    return hashed.decode()
