"""The composed model as a package for bioimage.io: description, test tensors and model card in a zip file.

Sources: bioimage-io/spec-bioimage-io ``src/bioimageio/spec/model/v0_5.py`` (format 0.5), and
bioimage-io/core-bioimage-io-python ``bioimageio.core.test_model``, which the packages pass.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from export.bioimageio.agreement import Agreement, compare
from export.bioimageio.compose import IMAGE, LABELS, compose
from export.errors import ExportError
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import Manifest, read_manifest
from runtime.extras import install_command
from runtime.files.outputs.overlay import draw_overlay

PAPER_DOI = "10.1101/2023.11.17.567630"
_MODEL, _CARD, _COVER, _GIVEN, _MADE = "model.onnx", "README.md", "cover.png", "test_input.npy", "test_output.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageOptions:
    """Fields of the description that the engines do not determine."""

    name: str = "CellSAM nano (cells in one view)"
    """Title of the model."""
    author: str = "The cellsam-engine maintainers"
    licence: str | None = None
    """SPDX identifier of the licence of the weights; default, that of the manifest."""
    channels: int = 1
    """Channels of the images, 1 to 3."""


def write_package(directory: Path, out: Path, options: PackageOptions | None = None) -> list[Agreement]:
    """Compose the engines, compare the result with ``Segmenter``, and write the package.

    Args:
        directory: the engine directory.
        out: the zip file.
        options: fields of the description.

    Returns:
        The comparisons.

    Raises:
        ExportError: the file exists, the engines cannot be composed, a package is not installed, or the description
            does not conform to the specification.
        VerificationError: the composed model and ``Segmenter`` disagree.
    """
    options = options or PackageOptions()
    if out.exists():
        raise ExportError(f"{out} exists; expected a new file. Remove it, or choose another name.", kind="exists")
    spec = _spec()
    model = compose(directory, options.channels)
    found = compare(model, directory)
    manifest = read_manifest(directory)
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder)
        _write_files(content, model, manifest, found, options, of_nano=_is_builtin(directory))
        try:
            with spec.ValidationContext(root=content, perform_io_checks=False):
                description = _description(content, model, manifest, options)
                out.parent.mkdir(parents=True, exist_ok=True)
                spec.save_bioimageio_package(description, output_path=out)
        except ValueError as error:  # pydantic's errors derive from it
            raise ExportError(
                f"the description does not conform to the specification: {error}. Change the name, author or licence."
            ) from error
    return found


def _spec() -> Any:
    try:
        import bioimageio.spec
    except ImportError as error:
        raise ExportError(
            f"packages for bioimage.io need bioimageio.spec, which cannot be imported ({error}). "
            f"Install it: {install_command('bioimageio')}.",
            kind="not_installed",
        ) from error
    return bioimageio.spec


def _is_builtin(directory: Path) -> bool:
    return directory.resolve() == builtin_engine().resolve()


def _write_files(
    folder: Path,
    model: onnx.ModelProto,
    manifest: Manifest,
    found: list[Agreement],
    options: PackageOptions,
    *,
    of_nano: bool,
) -> None:
    """Write the files that the description names."""
    onnx.save_model(model, folder / _MODEL)
    tested = max(found, key=lambda one: one.cells)
    np.save(folder / _GIVEN, tested.image)
    np.save(folder / _MADE, tested.labels)
    picture = draw_overlay(np.moveaxis(tested.image[0], 0, -1), tested.labels[0, 0])
    Image.fromarray(picture).save(folder / _COVER)
    (folder / _CARD).write_text(model_card(manifest, found, options, of_nano=of_nano), encoding="utf-8")


def model_card(manifest: Manifest, found: list[Agreement], options: PackageOptions, *, of_nano: bool) -> str:
    """Write the model card: what the model does, for which images, and how it differs from the package."""
    diameter = manifest.config.view_diameter_px
    scale = (
        f"Rescale your images so that the median cell is about {diameter:g} pixels across."
        if diameter is not None
        else "Rescale your images to the size of the model input."
    )
    of_model = (builtin_engine().parent / "README.md").read_text(encoding="utf-8").split("\n", 1)[1] if of_nano else ""
    lines = [
        f"# {options.name}",
        "",
        f"One ONNX file from an image of {manifest.image_size} x {manifest.image_size} pixels to a label map: contrast",
        "normalisation, encoder, box detector, suppression of duplicates, mask decoder and assembly of the labels.",
        "Written by `cellsam-engine export-bioimageio`.",
        "",
        "## Limits",
        "",
        f"- One view of fixed size. {scale} `cellsam-engine segment` measures the scale itself and tiles large images.",
        "- Cells are brighter than the background, or invert the image first.",
        "- A hole in a cell is filled only if no other cell touches it.",
        "- Labels of separate tiles are not joined.",
        "",
        "## Validation",
        "",
        "Compared with `Segmenter` in one view (`view_diameter_px=None`, `invert=False`), on sample images:",
        "",
        *(f"- {one}" for one in found),
        "",
        "To validate on your own images, compare the labels with annotated ones, for example as F1 at an IoU of 0.5.",
    ]
    return "\n".join(lines) + "\n" + of_model.replace("\n## ", "\n### ")


def _description(folder: Path, model: onnx.ModelProto, manifest: Manifest, options: PackageOptions) -> Any:
    from bioimageio.spec.model import v0_5 as spec

    side = manifest.image_size

    def axes(kind: Any, channels: list[str]) -> list[Any]:
        names = [spec.Identifier(name) for name in channels]
        return [
            spec.BatchAxis(size=1),
            spec.ChannelAxis(channel_names=names),
            *(kind(id=spec.AxisId(axis), size=side) for axis in "yx"),
        ]

    given = spec.InputTensorDescr(
        id=spec.TensorId(IMAGE),
        description="Raw intensities; the model normalises the contrast.",
        axes=axes(spec.SpaceInputAxis, _channel_names(options.channels)),
        test_tensor=spec.FileDescr(source=folder / _GIVEN),
        data=spec.IntervalOrRatioDataDescr(type="float32"),
        preprocessing=[spec.EnsureDtypeDescr(kwargs=spec.EnsureDtypeKwargs(dtype="float32"))],
    )
    made = spec.OutputTensorDescr(
        id=spec.TensorId(LABELS),
        description="0 is background, 1..n are the cells.",
        axes=axes(spec.SpaceOutputAxis, ["label"]),
        test_tensor=spec.FileDescr(source=folder / _MADE),
        data=spec.IntervalOrRatioDataDescr(type="int32"),
    )
    opset = model.opset_import[0].version
    return spec.ModelDescr(
        name=options.name,
        description="Segments cells and nuclei in microscope images, from raw intensities to a label map.",
        authors=[spec.Author(name=options.author)],
        cite=[
            spec.CiteEntry(text="Israel et al. 2023, A Foundation Model for Cell Segmentation", doi=spec.Doi(PAPER_DOI))
        ],
        license=spec.LicenseId(options.licence or manifest.weights["licence"]),
        documentation=spec.FileDescr(source=folder / _CARD),
        covers=[spec.FileDescr(source=folder / _COVER)],
        tags=["instance-segmentation", "cells", "nuclei", "2d", "cellsam"],
        inputs=[given],
        outputs=[made],
        weights=spec.WeightsDescr(onnx=spec.OnnxWeightsDescr(source=folder / _MODEL, opset_version=opset)),
        version=spec.Version(_version()),
    )


def _version() -> str:
    import runtime

    return runtime.__version__


def _channel_names(channels: int) -> list[str]:
    return {1: ["cells"], 2: ["nuclear", "whole_cell"]}.get(channels, ["red", "green", "blue"])
