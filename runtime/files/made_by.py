"""Read what made a result file: the provenance that most formats keep."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from runtime.errors import InputError
from runtime.files.formats.base import damage_named, optional_package
from runtime.files.outputs.label_images import LABEL_NAME
from runtime.files.outputs.read_cellpose import SEG_ENDING, read_seg
from runtime.provenance import METADATA_KEY, Provenance, from_pairs
from runtime.typed_json import convert


def read_provenance(path: str | Path) -> tuple[Provenance, ...]:
    """Read what made a result file.

    Args:
        path: a label image (TIFF, OME-TIFF, PNG, OME-Zarr directory), GeoJSON, Parquet, a zip file of ImageJ ROIs,
            Cellpose's ``_seg.npy``, or the picture of a segmentation (PNG).

    Returns:
        One record; several if processes with different engines, devices or versions made parts of a slide. Empty if the
        file has no record.

    Raises:
        InputError: the file does not exist, is damaged, is of a format without a place for records, or pyarrow is
            needed and not installed.
    """
    path = Path(path)
    name = path.name.lower()
    read = next((reader for ending, reader in _READERS.items() if name.endswith(ending)), None)
    if read is None:
        raise InputError(
            f"{path} has type {path.suffix or 'none'!r}; expected one of {', '.join(_READERS)}. Other files do not "
            "say what made them; look at segmented.jsonl in their folder.",
            kind="wrong_type",
        )
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a result file. Check the path.", kind="not_found")
    with damage_named(path):
        return convert(read(path), tuple[Provenance, ...])


def _from_tiff(path: Path) -> object:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if file.is_ome:
            return _from_ome_xml(file.ome_metadata or "")
        (first, *_) = file.shaped_metadata or ({},)
        return first.get(METADATA_KEY, [])


def _from_ome_xml(text: str) -> list[dict[str, Any]]:
    found = ElementTree.fromstring(text).iterfind(f".//{{*}}MapAnnotation[@Namespace='{METADATA_KEY}']")
    return [from_pairs({pair.get("K", ""): pair.text or "" for pair in one.iterfind(".//{*}M")}) for one in found]


def _from_zarr(path: Path) -> object:
    for attributes in (path / LABEL_NAME / ".zattrs", path / ".zattrs"):
        if attributes.is_file() and METADATA_KEY in (content := _object(attributes.read_text(encoding="utf-8"))):
            return content[METADATA_KEY]
    return []


def _from_geojson(path: Path) -> object:
    """Read the first line, which holds everything before the features, since the files of slides are large."""
    with path.open(encoding="utf-8") as file:
        head = file.readline()
    try:
        content = _object(head.rstrip() + "]}")
    except ValueError:  # another program has written the file again
        content = _object(path.read_text(encoding="utf-8"))
    return content.get(METADATA_KEY, [])


def _from_parquet(path: Path) -> object:
    parquet = optional_package("pyarrow.parquet", "pyarrow", "Parquet")
    return _parsed((parquet.read_schema(path).metadata or {}).get(METADATA_KEY.encode()))


def _from_zip(path: Path) -> object:
    with zipfile.ZipFile(path) as file:
        return _parsed(file.comment)


def _from_png(path: Path) -> object:
    from PIL import Image

    with Image.open(path) as picture:
        return _parsed(picture.info.get(METADATA_KEY))


def _from_seg(path: Path) -> object:
    return _parsed(read_seg(path).made_by)


def _parsed(text: str | bytes | None) -> object:
    return json.loads(text) if text else []


def _object(text: str) -> dict[str, Any]:
    return convert(json.loads(text), dict[str, Any])


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".tif": _from_tiff,
    ".tiff": _from_tiff,
    ".zarr": _from_zarr,
    ".geojson": _from_geojson,
    ".parquet": _from_parquet,
    ".zip": _from_zip,
    ".png": _from_png,
    SEG_ENDING: _from_seg,
}
"""Readers by the ending of the name."""
