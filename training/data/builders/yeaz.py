"""YeaZ: budding yeast in brightfield and phase contrast, single images and time-lapse stacks.

Layout (Dietler et al. 2020, Nat Commun 11:5723; epfl.ch/labs/lpbs/data-and-software), both archives unpacked:

    gold-standard-BF-V-1/<name>_im.tif, <name>_mask.tif         (H, W)
    gold-standard-PhC-plus-2/<name>_im.tif, <name>_mask.tif     (H, W) or (T, H, W)

There is no published split. The frames of a stack are one object set. Brightfield fields with several exposures have
equal masks, which the split keeps together. Layout as listed in torch-em
``torch_em/data/datasets/light_microscopy/yeaz.py``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from training.data.builders.pairs import Pair, Pattern, find_pairs, relative, skip_unpaired
from training.data.builders.reading import check_labels, to_gray
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset

NAME = "yeaz"
CITATION = "YeaZ, Dietler et al. 2020, doi:10.1038/s41467-020-19557-4"

PATTERN = Pattern("**/*_im.tif", "**/*_mask.tif")


def find(source: Path) -> list[SourceDataset]:
    """Find image and mask stacks below a source.

    Raises:
        DataError: there are none.
    """
    pairs, alone = find_pairs(source, PATTERN)
    if not pairs:
        raise DataError(
            f"{source} contains no *_im.tif with *_mask.tif; expected the unpacked YeaZ archives.",
            kind="not_found",
            field="source",
        )
    fields: list[Field] = []
    skipped = skip_unpaired(alone, source)
    for pair in pairs:
        file = relative(pair.image, source)
        try:
            fields += _fields(pair, file)
        except DataError as error:
            skipped.append(Skipped(file, str(error)))
    return [
        SourceDataset(
            name=NAME, group="Yeast", citation=CITATION, licence=None, fields=tuple(fields), skipped=tuple(skipped)
        )
    ]


def _fields(pair: Pair, file: str) -> list[Field]:
    frames, mask_frames = _frames(pair.image), _frames(pair.mask)
    if frames != mask_frames:
        raise DataError(
            f"it has {frames} frames and its mask {mask_frames}; expected equal numbers. Check the files.",
            kind="mismatch",
        )
    return [
        Field(
            image_id=pair.key if frames == 1 else f"{pair.key}/t{frame:04d}",
            file=file,
            read_channels=partial(_read_frame, pair.image, frame),
            read_labels=partial(_read_labels, pair.mask, frame),
            object_set=pair.key,
        )
        for frame in range(frames)
    ]


def _frames(path: Path) -> int:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            frames = len(tiff.pages)
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise _damaged(path, error) from error
    if frames == 0:
        raise _damaged(path, EOFError("it contains no image"))
    return frames


def _read_frame(path: Path, frame: int) -> NDArray[Any]:
    return to_gray(_read_page(path, frame), path.name)


def _read_labels(path: Path, frame: int) -> NDArray[Any]:
    return check_labels(_read_page(path, frame), path.name)


def _read_page(path: Path, frame: int) -> NDArray[Any]:
    import tifffile

    try:
        page: NDArray[Any] = tifffile.imread(path, key=frame)
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise _damaged(path, error) from error
    return page


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path.name} cannot be read ({type(error).__name__}: {error}); download the file again.")
