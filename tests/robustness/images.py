"""Image files of every supported type, damaged anywhere."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from runtime.files.formats import open_image
from runtime.files.image_results import FileOptions, read_file
from runtime.files.plain import read_image
from tests.robustness.base import Case, InputClass
from tests.robustness.mutations import edited, edits, replaced, replacements

Files = dict[str, bytes]
"""Content by path relative to a folder; the image itself is ``image`` with its suffix."""

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 1 << 16, (40, 33), np.uint16)
COLOUR = RNG.integers(0, 256, (40, 33, 3), np.uint8)
STACK = RNG.integers(0, 1 << 12, (3, 40, 33), np.uint16)

MOST_VALUES = 1 << 24
"""Maximum number of values to read as a whole; of a file that declares more, only a part is read."""


def _picture(array: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def _palette() -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR).quantize(16).save(file, "PNG")
    return file.getvalue()


def _tiff(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def _pyramid() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as tiff:
        options: dict[str, Any] = {"tile": (16, 16), "compression": "zlib"}
        tiff.write(STACK, subifds=1, metadata={"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options)
        tiff.write(STACK[:, ::2, ::2], subfiletype=1, **options)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _zarr(version: int) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "image.zarr"
        group = zarr.open_group(str(root), mode="w", zarr_format=version)  # type: ignore[arg-type]
        group.create_array("0", data=STACK, chunks=(1, 32, 32))
        axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
        scales = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
        datasets = [{"path": "0", "coordinateTransformations": scales}]
        metadata = {"multiscales": [{"axes": axes, "datasets": datasets, "version": "0.4"}]}
        metadata["omero"] = {"channels": [{"label": name} for name in "abc"]}  # type: ignore[assignment]
        group.attrs.update(metadata if version == 2 else {"ome": {"version": "0.5", **metadata}})
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }


BASES: dict[str, dict[str, Callable[[], Files]]] = {
    "PNG": {
        "gray16": lambda: {"image.png": _picture(GRAY, "PNG")},
        "colour": lambda: {"image.png": _picture(COLOUR, "PNG")},
        "palette": lambda: {"image.png": _palette()},
        "one bit": lambda: {"image.png": _picture(GRAY > 9000, "PNG")},
    },
    "JPEG": {
        "colour": lambda: {"image.jpg": _picture(COLOUR, "JPEG")},
        "gray": lambda: {"image.jpeg": _picture(COLOUR[..., 0], "JPEG", progressive=True)},
    },
    "TIFF": {
        "strips": lambda: {"image.tif": _tiff(GRAY)},
        "zlib tiles": lambda: {"image.tif": _tiff(COLOUR, tile=(16, 16), compression="zlib", photometric="rgb")},
        "lzw predictor": lambda: {"image.tif": _tiff(GRAY, compression="lzw", predictor=True)},
        "jpeg": lambda: {"image.tif": _tiff(COLOUR, tile=(16, 16), compression="jpeg", photometric="rgb")},
        "zstd": lambda: {"image.tif": _tiff(GRAY, compression="zstd")},
        "imagej": lambda: {"image.tif": _tiff(STACK, imagej=True, metadata={"axes": "CYX"})},
        "big": lambda: {"image.tif": _tiff(GRAY, bigtiff=True)},
    },
    "OME-TIFF": {
        "pyramid": lambda: {"image.ome.tif": _pyramid()},
        "plain": lambda: {"image.ome.tif": _tiff(STACK, ome=True, metadata={"axes": "CYX"})},
    },
    "npy": {
        "gray": lambda: {"image.npy": _npy(GRAY)},
        "colour": lambda: {"image.npy": _npy(COLOUR.astype(">f4"))},
        "fortran": lambda: {"image.npy": _npy(np.asfortranarray(GRAY))},
    },
    "OME-Zarr": {"0.4": lambda: _zarr(2), "0.5": lambda: _zarr(3)},
}


@lru_cache
def _base(kind: str, form: str) -> Files:
    return BASES[kind][form]()


def cases(kind: str) -> SearchStrategy[Case]:
    """Draw changes of files of a type."""
    return st.fixed_dictionaries(
        {
            "kind": st.just(kind),
            "form": st.sampled_from(sorted(BASES[kind])),
            "file": st.integers(0, 99),
            "edits": edits(),
            "tree": st.just([]) | replacements() if kind == "OME-Zarr" else st.just([]),
            "sums": st.booleans(),
        }
    )


def damaged(case: Case) -> Files:
    """Return the files of a case."""
    if "content" in case:
        return {name: bytes.fromhex(text) for name, text in case["content"].items()}
    files = dict(_base(case["kind"], case["form"]))
    name = sorted(files)[case["file"] % len(files)]
    if case["tree"]:
        described = [name for name in sorted(files) if name.rsplit("/", 1)[-1] in ("zarr.json", ".zattrs", ".zarray")]
        name = described[case["file"] % len(described)]
        files[name] = json.dumps(replaced(json.loads(files[name]), case["tree"])).encode()
    else:
        files[name] = edited(files[name], case["edits"])
    if case["kind"] == "PNG" and case["sums"]:
        files[name] = _with_sums(files[name])
    return files


def _with_sums(png: bytes) -> bytes:
    """Correct the checksums of all chunks of a PNG, so that readers accept damaged chunks."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        chunk = png[at + 4 : at + 8 + size]
        out += png[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + size
    return out + png[at:]


def check(case: Case) -> None:
    """Read a file in part, as a folder job reads it, and as a whole."""
    files = damaged(case)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        top = Path(folder) / next(iter(files)).partition("/")[0]
        _check_reader(top)


def _check_reader(path: Path) -> None:
    with open_image(path) as reader:
        height, width = reader.size_hw
        assert min(height, width) > 0
        assert reader.channels
        assert reader.pixel_size_um is None or reader.pixel_size_um > 0
        part = (min(height, 50), min(width, 50))
        few = range(min(3, len(reader.channels)))
        found = reader.read(height - part[0], width - part[1], *part, few)
        assert found.shape == (*part, len(few))
        assert found.dtype == reader.dtype
        reader.absent_chunks()
        values = height * width * len(reader.channels)
    image = read_file(path, FileOptions(largest_px=MOST_VALUES // 4))
    assert image.pixels.shape[:2] == (height, width)
    if path.is_file() and values <= MOST_VALUES:
        assert read_image(path).shape[:2] == (height, width)


def _pinned(case: Case) -> Case:
    return {"content": {name: content.hex() for name, content in damaged(case).items()}}


CLASSES = tuple(InputClass(kind, lambda kind=kind: cases(kind), check, _pinned) for kind in BASES)
