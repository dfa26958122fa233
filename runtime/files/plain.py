"""Whole-file readers for images and writers for label maps; ``runtime.files.formats`` reads files in parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats import SMALL_SUFFIXES, check_file
from runtime.files.formats.axes import NAMED_FEW, Plane
from runtime.files.formats.base import damage_named
from runtime.files.formats.pictures import read_picture
from runtime.files.formats.tiff import TiffReader
from runtime.files.placing import write_whole
from runtime.provenance import METADATA_KEY, Provenance, to_json, to_jsonable

if TYPE_CHECKING:
    from PIL import PngImagePlugin

_UM_PER_CM = 1e4


def read_image(path: str | Path) -> NDArray[np.generic]:
    """Read a PNG, JPEG, TIFF or npy file as a whole.

    Returns:
        (H, W), or (H, W, C) with the channels last, in the file's dtype and full depth. Palettes are resolved to
        colours; an opaque alpha channel is removed.

    Raises:
        InputError: the file does not exist, is of another type, is damaged or unreadable, or is not one plane of up to
            three channels; ``runtime.files.formats.open_image`` opens stacks and more channels.
    """
    path = Path(path)
    check_file(path, SMALL_SUFFIXES)
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(path)
    with damage_named(path):
        if path.suffix.lower() != ".npy":
            return read_picture(path)
        array: NDArray[np.generic] = np.load(path, allow_pickle=False)
        return array


def _read_tiff(path: Path) -> NDArray[np.generic]:
    with TiffReader(path, series=None, plane=Plane(), level=0) as reader:
        if len(reader.channels) > NAMED_FEW and "S" not in reader.axes:
            raise InputError(
                f"{path} has axes {reader.axes} and {len(reader.channels)} channels; expected one plane of up to three "
                "channels. Choose them with runtime.files.formats.choose_channels, or save the channels to segment.",
                kind="wrong_shape",
            )
        array = reader.read_all()
    return array[..., 0] if array.shape[2] == 1 else array


def write_labels(
    path: Path,
    labels: NDArray[np.int32],
    pixel_size_um: float | None = None,
    provenance: Sequence[Provenance] = (),
) -> None:
    """Write a label map as a compressed TIFF, atomically, with 16 bits if the labels fit, else 32.

    Args:
        path: the file.
        labels: (H, W), 0 background.
        pixel_size_um: side of a pixel, micrometres; None if unknown.
        provenance: what made the labels.
    """
    import tifffile

    dtype = np.uint16 if labels.max(initial=0) < 1 << 16 else np.uint32
    write_whole(
        path,
        lambda temporary: tifffile.imwrite(
            temporary,
            labels.astype(dtype),
            compression="zlib",
            photometric="minisblack",
            metadata=tiff_description(provenance),
            **resolution_tags(pixel_size_um),
        ),
    )


def tiff_description(provenance: Sequence[Provenance], axes: str = "YX") -> dict[str, Any]:
    """Return the content of the JSON that tifffile writes as the description of a label image."""
    return {"axes": axes, **({METADATA_KEY: to_jsonable(provenance)} if provenance else {})}


def png_text(provenance: Sequence[Provenance]) -> PngImagePlugin.PngInfo:
    """Return the text that Pillow writes into a PNG."""
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    if provenance:
        text.add_text(METADATA_KEY, to_json(provenance))
    return text


def resolution_tags(pixel_size_um: float | None) -> dict[str, Any]:
    """Return the arguments with which tifffile writes the pixel size; empty if it is unknown.

    Fiji converts these centimetres to micrometres. ImageJ's own metadata would exclude 32-bit labels (tifffile).
    """
    if pixel_size_um is None:
        return {}
    return {"resolution": (_UM_PER_CM / pixel_size_um,) * 2, "resolutionunit": "CENTIMETER"}
