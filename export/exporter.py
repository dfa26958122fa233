"""Export of one checkpoint to one engine directory: written to a temporary place, verified, then moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from export.engine_files import EngineGraph, engine_graphs
from export.errors import ExportError, VerificationError
from export.gates import BFLOAT16, INTEGERS, GateCheck, HalfTolerance
from export.half_range import RangeCheck
from export.onnx_file import write_onnx
from export.placing import check_target, place_engines, remove_leftovers_of
from export.quantised import quantise_encoders
from export.saved_data import save_data
from export.verify import OutputCheck, Tolerance, verify_engines
from export.verify_half import verify_half_engines
from runtime.config import SegmentConfig
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.load import resolve_backend
from runtime.engines.backends.ort import OrtEngine
from runtime.engines.builtin import sample_images
from runtime.engines.engine_source import EngineSource, check_files
from runtime.engines.manifest import (
    Attention,
    EngineFile,
    EngineName,
    Manifest,
    Precision,
    Target,
    read_manifest,
    sha256_file,
)
from runtime.errors import ConfigError
from runtime.files.placing import staged
from runtime.files.plain import read_image
from runtime.ops.preprocess import check_image
from runtime.types import Profile
from training.checkpoint import Checkpoint, CheckpointError
from training.weights import load_weights

Progress = Callable[[str], None]
Checks = Sequence[OutputCheck | GateCheck | RangeCheck]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Settings of an export."""

    profile: Profile | None = None
    """Preprocessing; default, ``cellsam-1.2`` for the released format, ``paper`` for other weights."""
    precision: Precision = "fp32"
    """``int8`` quantises the encoders, for CPUs; see ``export.quantised``."""
    attention: Attention = "plain"
    """``fused``: for the backend ``cuda``; see ``export.graphs.fused``."""
    target: Target | None = None
    """Form of the engines, which does not affect results: ``gpu`` suits TensorRT's fusion; ``any`` is fastest on CPUs
    and with onnxruntime. Default: ``gpu`` for plain half precision, else ``any``."""
    licence: str | None = None
    """Licence of the weights for the manifest; default, the licence that belongs to the checkpoint."""
    settings: SegmentConfig | None = None
    """Settings for calls that give none; default, the settings in the checkpoint, else the released code's
    thresholds."""
    trained_channels: tuple[int, ...] = ()
    """Numbers of channels of the images the weights were trained on; the runtime warns about others. Default, the
    numbers in the checkpoint."""
    sha256: str | None = None
    """Hex sha256 that the checkpoint must have; None accepts any."""
    force: bool = False
    """Replace an existing engine directory."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("precision", self.precision, get_args(Precision)),
            ("attention", self.attention, get_args(Attention)),
            ("target", self.form, get_args(Target)),
        ):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}.", field=name)
        if self.precision == "int8" and self.attention == "fused":
            raise ConfigError(
                "precision is 'int8', for CPUs, but attention is 'fused', for the backend 'cuda'; expected one of "
                "them. Export with attention='plain'.",
                kind="conflict",
                field="attention",
            )
        if self.form == "gpu" and (self.precision == "int8" or self.attention == "fused"):
            other = "precision int8 is for CPUs" if self.precision == "int8" else "attention fused is for onnxruntime"
            raise ConfigError(
                f"target='gpu' is the form for TensorRT, but {other}; expected settings for one of them. "
                "Export with target='any'.",
                kind="conflict",
                field="target",
            )

    @property
    def form(self) -> Target:
        """``target``, or its default."""
        return self.target or ("gpu" if self.precision == "fp16" and self.attention == "plain" else "any")


def export_engines(
    checkpoint: str | Path,
    out: str | Path,
    config: ExportConfig | None = None,
    *,
    image: NDArray[np.generic] | None = None,
    calibration: Sequence[NDArray[np.generic]] = (),
    progress: Progress = lambda message: None,
) -> Manifest:
    """Export a checkpoint.

    The engines are written to a temporary directory beside ``out`` and moved there only after each engine agrees with
    PyTorch. A failure leaves nothing behind, and an earlier directory unchanged.

    Args:
        checkpoint: a checkpoint of released CellSAM, SAM ViT-B, or our own format.
        out: the engine directory to create.
        config: profile, precision and other settings.
        image: (H, W) or (H, W, C <= 3) to verify on; default, the image in the package.
        calibration: ``int8`` only: images of the same form to measure integer ranges on, ideally of every kind to be
            segmented; default, the package's sample images.
        progress: called with one line before each step.

    Raises:
        ConfigError: calibration images are given for another precision.
        ExportError: ``out`` exists or may not be replaced, or the checkpoint cannot be used.
        InputError: ``image`` or one of ``calibration`` cannot be used.
        VerificationError: an engine differs from PyTorch; the message names all failed checks.
    """
    config = config or ExportConfig()
    if calibration and config.precision != "int8":
        raise ConfigError(
            f"calibration images came with precision {config.precision!r}; only int8 uses them to measure ranges. "
            "Leave them out, or export with precision='int8'.",
            kind="conflict",
            field="calibration",
        )
    if image is not None:
        check_image(image)
    for number, given in enumerate(calibration, start=1):
        check_image(given, f"calibration image {number}")
    out = Path(out).resolve()
    remove_leftovers_of(out)
    check_target(out, force=config.force)
    progress("reading the checkpoint")
    loaded = _load(Path(checkpoint), config.sha256)
    with staged(out, _existing_parent(out)) as partial:
        manifest = write_engines(loaded, loaded.sha256, partial, config, progress)
        if config.precision == "int8":
            progress("writing encoders in 8-bit integers")
            replace(manifest, precision="fp32").write(partial)  # describes the files at this point
            manifest = quantise_encoders(partial, calibration or [read_image(path) for path in sample_images()])
        checks = _verified(partial, manifest, loaded, image, progress)
        manifest = replace(manifest, verification=_verification(checks, image, config.precision, calibration))
        manifest.write(partial)
        place_engines(partial, out, force=config.force)
    return manifest


def write_engines(
    loaded: Checkpoint,
    checkpoint_sha256: str,
    directory: Path,
    config: ExportConfig,
    progress: Progress = lambda message: None,
) -> Manifest:
    """Write the engine files of a checkpoint, unverified; for ``int8`` they are still in float32.

    Args:
        loaded: the checkpoint.
        checkpoint_sha256: hex sha256 of its file.
        directory: an existing directory.
        config: profile, precision and other settings.
        progress: called with one line before each file.

    Returns:
        Their manifest, which is not written.
    """
    engines = {}
    for engine in engine_graphs(loaded.model, config.precision, config.attention, config.form):
        progress(f"writing {engine.file}")
        engines[engine.name] = _write_engine(engine, directory)
    return _manifest(loaded, checkpoint_sha256, config, engines)


def verify_directory(
    directory: str | Path,
    checkpoint: str | Path,
    *,
    image: NDArray[np.generic] | None = None,
    backend: str = "cpu",
    data: Path | None = None,
    progress: Progress = lambda message: None,
) -> Checks:
    """Verify an engine directory against its checkpoint.

    Args:
        directory: the engine directory.
        checkpoint: the reference, which PyTorch computes on the CPU, in float64 or, for the gates, in float32.
        image: as in ``export_engines``.
        backend: name of the backend that runs the engines, as in ``Segmenter``. Only float32 engines on ``cpu`` are
            compared element by element; all others must pass the gates of half precision.
        data: directory for inputs and PyTorch's outputs of each engine, as files of Polygraphy (``save_data``); they
            are written before the engines are compared, so that they exist if an engine differs.
        progress: called with one line before each step, and with warnings.

    Raises:
        BackendError: the backend is unknown or cannot run an engine.
        EngineError: the directory is damaged.
        ExportError: the engines were made from another checkpoint, or the checkpoint cannot be used.
        VerificationError: an engine differs from PyTorch; the message names all failed checks.
    """
    directory = Path(directory)
    backend = resolve_backend(backend, directory)
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    progress("reading the checkpoint")
    loaded = _load(Path(checkpoint))
    found = loaded.sha256
    if found != manifest.weights["sha256"]:
        raise ExportError(
            f"{directory} was made from another checkpoint: sha256 {manifest.weights['sha256'][:16]}..., but "
            f"{checkpoint} has {found[:16]}.... Give the original checkpoint, or export again.",
            kind="mismatch",
            field="checkpoint",
        )
    if data is not None:
        progress(f"writing inputs and outputs of each engine to {data}")
        save_data(data, manifest, loaded.model, image)
    return _verified(directory, manifest, loaded, image, progress, backend=backend)


def _verified(
    directory: Path,
    manifest: Manifest,
    loaded: Checkpoint,
    image: NDArray[np.generic] | None,
    progress: Progress,
    *,
    backend: str = "cpu",
) -> Checks:
    """Run all checks of a directory.

    Raises:
        VerificationError: a check failed; the message names all failed checks.
    """

    def announce(engine: str) -> None:
        progress(f"verifying {engine} against PyTorch")

    checks: Checks
    if manifest.precision == "fp32" and backend == "cpu":
        checks = verify_engines(directory, manifest, loaded.model, image=image, on_engine=announce)
    else:
        limits = _limits(manifest.precision, backend)
        checks = verify_half_engines(
            directory, manifest, loaded.model, image=image, backend=backend, tolerance=limits, on_engine=announce
        )
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        advice = ""
        if manifest.precision == "int8":
            advice = (
                "\nGive images of the kinds you segment as calibration=, and check on one of them with image=, or "
                "export with precision='fp32'."
            )
        raise VerificationError("the engines do not agree with PyTorch:\n  " + "\n  ".join(failed) + advice)
    for check in checks:
        if isinstance(check, RangeCheck) and check.close:
            progress(f"warning: {check.close}")
    return checks


def _limits(precision: Precision, backend: str = "cpu") -> HalfTolerance:
    """Return the gates for engines that are not compared element by element."""
    if precision == "int8":
        return INTEGERS
    return BFLOAT16 if backend == "openvino" else HalfTolerance()


def _load(path: Path, sha256: str | None = None) -> Checkpoint:
    try:
        return load_weights(path, sha256=sha256)
    except CheckpointError as error:
        raise ExportError(f"{path}: {error}", kind=error.kind, field=error.field) from error


def _existing_parent(path: Path) -> Path:
    """Return the nearest existing directory above a path; a failed export must not create any."""
    return next(parent for parent in path.parents if parent.is_dir())


def _write_engine(engine: EngineGraph, directory: Path) -> EngineFile:
    path = directory / engine.file
    write_onnx(engine, path)
    sha256 = sha256_file(path)
    written = OrtEngine(EngineSource(path, sha256), BackendOptions())
    names = [tensor.name for tensor in written.inputs], [tensor.name for tensor in written.outputs]
    if names != (list(engine.inputs), list(engine.outputs)):
        raise VerificationError(
            f"{engine.file} has inputs and outputs {names}; expected {list(engine.inputs)} and {list(engine.outputs)}. "
            "Export with the versions of torch and onnxscript that this package requires."
        )
    return EngineFile(
        file=engine.file,
        sha256=sha256,
        inputs=written.inputs,
        outputs=written.outputs,
        attention=engine.attention,
    )


def _manifest(
    loaded: Checkpoint,
    checkpoint_sha256: str,
    config: ExportConfig,
    engines: dict[EngineName, EngineFile],
) -> Manifest:
    sizes = loaded.model.config
    return Manifest(
        image_size=sizes.image_size,
        grid_size=sizes.grid_size,
        profile=config.profile or loaded.default_profile,
        renormalize=loaded.renormalize,
        trunk=sizes.trunk,
        precision=config.precision,
        config=config.settings or loaded.usage.settings or SegmentConfig(),
        engines=engines,
        target=config.form,
        trained_channels=config.trained_channels or loaded.usage.trained_channels,
        weights={
            "format": loaded.source_format,
            "sha256": checkpoint_sha256,
            "licence": config.licence or loaded.licence,
        },
        model=asdict(sizes),
        tools={name: version(name) for name in ("cellsam-engine", "torch", "onnx", "onnxscript", "onnxruntime")},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _verification(
    checks: Checks,
    image: NDArray[np.generic] | None,
    precision: Precision,
    calibration: Sequence[NDArray[np.generic]],
) -> dict[str, object]:
    found: dict[str, object] = {
        "image": "built-in" if image is None else f"given, {list(image.shape)}",
        "backend": f"onnxruntime CPU against PyTorch {'float64' if precision == 'fp32' else 'float32'}",
        "tolerance": asdict(Tolerance() if precision == "fp32" else _limits(precision)),
        "outputs": [asdict(check) for check in checks],
    }
    if precision == "int8":
        found["calibration"] = f"{len(calibration)} given images" if calibration else "the package's sample images"
    return found
