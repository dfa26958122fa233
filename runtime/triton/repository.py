"""Writing of a Triton model repository from an engine directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runtime.config import check_whole
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import MANIFEST_NAME, read_manifest
from runtime.errors import ConfigError
from runtime.triton.model_config import network_config, segmenter_config

_VERSION = "1"
"""Triton's version directory; a repository holds one version of the engines."""

_MODEL_PY = '''"""Model of Triton's Python backend; cellsam-engine must be installed for the Python that Triton runs."""

from runtime.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

OPTIONS_NAME = "options.json"
"""File beside the manifest with the limits that the repository was written for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryOptions:
    """Names and limits of a model repository.

    Raises:
        ConfigError: a limit is below 1, or the name has characters that Triton's URLs do not allow.
    """

    name: str = "cellsam"
    """Name of the model that clients call; the networks have names that begin with it."""
    max_batch: int = IMAGES_ON_GPU
    """Most images per call of the encoder and the detector."""
    max_boxes: int = BOXES_ON_GPU
    """Most boxes per call of the mask decoder."""
    most_requests: int = 16
    """Most requests whose boxes share decoder calls."""

    def __post_init__(self) -> None:
        for limit in ("max_batch", "max_boxes", "most_requests"):
            check_whole(limit, getattr(self, limit), least=1)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise ConfigError(
                f"name is {self.name!r}; expected letters, digits, '_', '-' and '.'. Choose another name.", field="name"
            )


def network_name(model: str, engine: str) -> str:
    """Return the name of a network in the repository, such as ``cellsam_encoder``."""
    return f"{model}_{engine}"


def write_repository(engine_dir: Path, out: Path, options: RepositoryOptions | None = None) -> list[str]:
    """Write a model repository; the ONNX files are copies of those in the engine directory.

    Args:
        engine_dir: the engine directory.
        out: the repository; models of other names in it stay.
        options: names and limits.

    Returns:
        The names of the models, the one that clients call last.

    Raises:
        EngineError: the engine directory is missing, incomplete or altered.
        ConfigError: the repository has one of these models already.
    """
    options = options or RepositoryOptions()
    manifest = read_manifest(engine_dir)
    networks = {name: network_name(options.name, name) for name in manifest.engines}
    for model in (*networks.values(), options.name):
        if (out / model).exists():
            raise ConfigError(
                f"{out / model} exists; expected a repository without it. Remove it, or choose another name.",
                kind="exists",
                field="out",
            )
    for name, engine in manifest.engines.items():
        content = EngineSource(engine_dir / engine.file, engine.sha256).read()
        config = network_config(networks[name], engine, options.max_batch)
        _version_dir(out / networks[name], config).joinpath("model.onnx").write_bytes(content)
    version = _version_dir(out / options.name, segmenter_config(options.name, options.most_requests))
    (version / "model.py").write_text(_MODEL_PY, encoding="utf-8")
    (version / MANIFEST_NAME).write_bytes((engine_dir / MANIFEST_NAME).read_bytes())
    limits = f'{{"max_batch": {options.max_batch}, "max_boxes": {options.max_boxes}}}\n'
    (version / OPTIONS_NAME).write_text(limits, encoding="utf-8")
    return [*networks.values(), options.name]


def _version_dir(model: Path, config: str) -> Path:
    """Create the directory of a model with its configuration; return that of the version."""
    version = model / _VERSION
    version.mkdir(parents=True)
    (model / "config.pbtxt").write_text(config, encoding="utf-8")
    return version
