"""Reading of engine files such that a backend loads exactly the bytes that were checked against the manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from runtime.engines.manifest import Manifest
from runtime.engines.onnx_check import check_graph
from runtime.errors import EngineError


@dataclass(frozen=True, slots=True)
class EngineSource:
    """An engine file and the hash it must have.

    Backends load the bytes that ``read`` returns and never open ``path`` themselves. Otherwise another process could
    replace the file, or the target of a link, between the check and the second opening.
    """

    path: Path
    sha256: str
    """Hex sha256 from the manifest."""

    def read(self) -> bytes:
        """Read the file once and return its content.

        Raises:
            EngineError: the file is missing, unreadable or altered, or its graph differs from exported ones
                (``runtime.engines.onnx_check``); the message names the file.
        """
        self._check_exists()
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self.path} cannot be read: {error}.", kind="unreadable") from error
        self._compare(hashlib.sha256(content).hexdigest())
        check_graph(content, self.path)
        return content

    def _check_exists(self) -> None:
        if not self.path.is_file():
            raise EngineError(f"{self.path} is missing; export the engines again.", kind="not_found")

    def _compare(self, found: str) -> None:
        if found != self.sha256:
            raise EngineError(
                f"{self.path} was altered after its export: its sha256 is {found[:16]}..., but the manifest has "
                f"{self.sha256[:16]}.... Export the engines again."
            )


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare each engine file of a directory with its hash, without loading any.

    Raises:
        EngineError: as in ``EngineSource.read``.
    """
    for engine in manifest.engines.values():
        EngineSource(directory / engine.file, engine.sha256).read()
