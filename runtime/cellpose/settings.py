"""Cellpose's options as settings of this package."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.config import SegmentConfig
from runtime.engines.backends.availability import backend_problems
from runtime.engines.backends.base import BackendOptions
from runtime.engines.builtin import BUILTIN_NAME
from runtime.engines.manifest import MANIFEST_NAME
from runtime.errors import ConfigError, EngineError
from runtime.jobs.segmenter_spec import SegmenterSpec

_log = logging.getLogger(__name__)

MODEL_NAMES = frozenset(
    (
        *("cyto", "cyto2", "cyto3", "nuclei", "cpsam", "cpsam_v2", "cpdino", "cyto2_cp3", "tissuenet_cp3"),
        *("livecell_cp3", "yeast_PhC_cp3", "yeast_BF_cp3", "bact_phase_cp3", "bact_fluor_cp3", "deepbacs_cp3"),
        *("transformer_cp3", "neurips_cellpose_default", "neurips_cellpose_transformer"),
        *("neurips_grayscale_cyto2", "CP", "CPx", "TN1", "TN2", "TN3", "LC1", "LC2", "LC3", "LC4", "tissuenet"),
        *("livecell", "general", "cytotorch_0", "cyto2torch_0", "nucleitorch_0", "None", "False", "0"),
    )
)
"""Names of Cellpose's own models, for which the built-in model runs (``cellpose/models.py`` of versions 2 to 4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSettings:
    """The options of one call that have a meaning here."""

    diameter: float | None = None
    """Median cell diameter, pixels; None or 0 measures it."""
    cellprob_threshold: float = 0.0
    """Added to the logit of ``mask_threshold``: 0 keeps the model's own value, lower values make masks larger."""
    min_size: int | None = None
    """Smallest cell, pixels; -1 keeps all, None is the model's own value."""
    invert: bool = False

    def config(self, defaults: SegmentConfig) -> SegmentConfig:
        """Change the settings of a model as these options ask.

        Raises:
            ConfigError: a value is outside its range.
        """
        if not math.isfinite(self.cellprob_threshold):
            raise ConfigError(
                f"cellprob_threshold is {self.cellprob_threshold}; expected a finite number, usually -6 to 6."
            )
        config = defaults
        if self.diameter:
            if config.view_diameter_px is None:
                _log.warning("diameter=%s has no effect: this model shows images whole", self.diameter)
            else:
                config = replace(config, diameter_px=float(self.diameter), diameter_um=None)
        if self.cellprob_threshold:
            logit = config.mask_threshold_logit + self.cellprob_threshold
            # Beyond 12, a sigmoid would round to 0 or 1, which are not thresholds.
            config = replace(config, mask_threshold=1.0 / (1.0 + math.exp(-min(max(logit, -12.0), 12.0))))
        if self.min_size is not None:
            config = replace(config, min_area_px=max(int(self.min_size), 0))
        return replace(config, invert=True) if self.invert else config


def engine_directory(model: str | Path | None) -> Path | None:
    """Return the engine directory that ``pretrained_model`` names; None for the built-in model.

    Raises:
        EngineError: this is neither an engine directory nor the name of a model of Cellpose.
    """
    name = str(BUILTIN_NAME if model is None else model)
    if name == BUILTIN_NAME:
        return None
    if (Path(name) / MANIFEST_NAME).is_file():
        return Path(name)
    if name in MODEL_NAMES and not Path(name).exists():
        _log.warning("model %s is not available here; the built-in model %s runs instead", name, BUILTIN_NAME)
        return None
    came = "is not an engine directory" if Path(name).exists() else "does not exist"
    raise EngineError(
        f"pretrained_model {name} {came}; expected a directory with a {MANIFEST_NAME}, written by 'cellsam-engine "
        f"export', or one of {', '.join(sorted(MODEL_NAMES, key=str.casefold))}. Weights of Cellpose cannot be used.",
        kind="not_found",
        field="pretrained_model",
    )


def find_engines(model: str | Path | None, *, gpu: bool, device: int = 0) -> SegmenterSpec:
    """Choose the engines and the backend: the best one on a GPU if ``gpu`` is set, else the best one on the CPU.

    Cellpose runs on the CPU if it finds no GPU, and hosts set ``--use_gpu`` by default. So does this function, but it
    logs the reason.

    Raises:
        EngineError, BackendError: the engines cannot be used.
    """
    spec = SegmenterSpec(engine_dir=engine_directory(model), options=BackendOptions(device=device if gpu else 0))
    resolved = spec.here()
    if gpu and not resolved.resolved().on_gpu:
        problems = backend_problems(spec.directory, device)
        _log.warning("use_gpu is set, but the CPU is used (%s): %s", resolved.backend, problems["cuda"])
    elif not gpu and resolved.resolved().on_gpu:
        openvino = backend_problems(spec.directory)["openvino"] is None
        resolved = replace(resolved, backend="openvino" if openvino else "cpu")
    return resolved


def chosen_channels(channels: Sequence[int] | None, count: int) -> tuple[int, ...] | None:
    """Translate Cellpose's pair of channels to channel indices in the order (nuclear, whole-cell).

    Args:
        channels: the channel to segment (0 gray, 1 red, 2 green, 3 blue) and that of the nuclei (0 none).
        count: number of channels of the image.

    Returns:
        Indices; None for all channels, as for gray and for images with one channel.

    Raises:
        ConfigError: the image has fewer channels.
    """
    cell, nuclei = (*(channels or ()), 0, 0)[:2]
    if count == 1 or cell == 0:
        return None
    for number, option in ((cell, "chan"), (nuclei, "chan2")):
        if not 0 <= number <= count:
            raise ConfigError(f"{option} is {number}; expected 0 to {count}, the number of channels.", field=option)
    return (cell - 1,) if nuclei in (0, cell) else (nuclei - 1, cell - 1)
