"""Options of the server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from runtime.config import check_whole
from runtime.errors import ConfigError
from runtime.files.image_results import LARGEST_IMAGE_PX
from runtime.jobs.segmenter_spec import SegmenterSpec

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on what requests may occupy, checked before an image is decoded."""

    upload_bytes: int = 256 * MIB
    """Largest file or binary tensor in a request."""
    json_bytes: int = 64 * MIB
    """Largest JSON body; parsed, it takes several times as much memory."""
    held_bytes: int = 1024 * MIB
    """Bodies of all requests in progress together."""
    pixels: int = LARGEST_IMAGE_PX
    """Largest image, pixels."""
    boxes: int = 10_000
    """Most boxes in a request."""
    queue: int = 64
    """Most requests that may wait for the engines or be in work."""
    embedding_bytes: int = 512 * MIB
    """Memory for cached embeddings; the least recently used ones are dropped first."""
    pixel_bytes: int = 512 * MIB
    """Memory for pyramids of a project's images, likewise."""

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "json_bytes", "held_bytes", "pixels", "boxes", "queue"):
            check_whole(name, getattr(self, name), least=1)
        for name in ("embedding_bytes", "pixel_bytes"):
            check_whole(name, getattr(self, name), least=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """Engines, folders, address and limits of a server."""

    engines: SegmenterSpec = field(default_factory=SegmenterSpec)
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    """Required in every request if given; any address but the loopback needs one."""
    root: Path | None = None
    """Directory below which requests may name images; None if they may only upload them."""
    project: Path | None = None
    """Correction project to serve."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; expected a number from 0 to 65535.", field="port")
        if self.token is not None and len(self.token) < LEAST_TOKEN:
            raise ConfigError(
                f"token has {len(self.token)} characters; expected at least {LEAST_TOKEN}. Generate one: "
                "python -c 'import secrets; print(secrets.token_urlsafe())'.",
                field="token",
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ConfigError(
                "token has a character that HTTP headers cannot carry; expected letters, digits, - and _.",
                field="token",
            )
        if self.token is None and not self.on_loopback:
            raise ConfigError(
                f"host is {self.host}, which other machines can reach, but no token is given; expected both. Give a "
                "token, or leave host at 127.0.0.1.",
                kind="missing",
                field="token",
            )
        for name in ("root", "project"):
            path = getattr(self, name)
            if path is not None and not path.is_dir():
                raise ConfigError(
                    f"{name} is {path}, not a directory; expected an existing one.", kind="not_found", field=name
                )

    @property
    def on_loopback(self) -> bool:
        """Whether only programs of this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


LEAST_TOKEN = 8
"""Shortest token, characters."""
