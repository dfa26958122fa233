"""Export of the labels of a project to files of other programs, and to training data."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from runtime.correction.journal import State, check_state
from runtime.correction.label_formats import COCO, EXPORT_FORMATS, LABEL_FORMATS, TRAINING, LabelOutput, check_format
from runtime.correction.project import Project
from runtime.errors import InputError
from runtime.files.formats import SMALL_SUFFIXES
from runtime.files.image_results import FileOptions, result_name
from runtime.files.outputs.coco import write_coco
from runtime.files.placing import write_whole
from runtime.files.plain import write_labels

COCO_NAME = "coco.json"
WITH_LABELS: tuple[State, ...] = ("segmented", "corrected", "done")
"""States of images that have labels."""


def export_labels(
    project: Project,
    out: str | Path,
    formats: Sequence[str] = ("tiff",),
    *,
    names: Iterable[str] | None = None,
    states: Sequence[str] = WITH_LABELS,
) -> Iterator[Path]:
    """Write the labels of a project's images.

    - ``tiff``, ``geojson``, ``imagej``, ``deepcell-label``: a file for each image, in the subfolders of the images.
    - ``coco``: ``coco.json`` for all images.
    - ``training``: ``NAME_img`` and ``NAME_mask.tif`` for each image, for ``data build folder`` and ``finetune``.

    Args:
        project: the project.
        out: the folder, which is created; existing files are replaced.
        formats: names of ``EXPORT_FORMATS``.
        names: images to export; None for all.
        states: states of the images to export.

    Yields:
        Each written file.

    Raises:
        ConfigError: a format is unknown.
        InputError: no image is in these states, two images would write the same file, or an image cannot be read that
            the format contains.
    """
    out = Path(out)
    for name in formats:
        check_format(name, EXPORT_FORMATS)
    for state in states:
        check_state(state)
    wanted = project.names if names is None else tuple(names)
    chosen = [name for name in wanted if project.status(name).state in states]
    if not chosen:
        raise InputError(
            f"none of {len(wanted)} images is {' or '.join(states)}; expected at least one. Segment or mark the "
            "images first.",
            kind="not_found",
            field="states",
        )
    stems = _stems(project, chosen)
    for format_name in formats:
        if format_name == COCO:
            yield _write_coco(project, out, chosen)
            continue
        for name, stem in stems.items():
            if format_name == TRAINING:
                yield from _write_pair(project, out, name, stem)
            else:
                yield _write_one(project, out / stem, name, format_name)


def _stems(project: Project, names: Sequence[str]) -> dict[str, PurePosixPath]:
    """Return the beginning of each image's file names, below the output folder.

    Raises:
        InputError: two images have the same one.
    """
    stems = {name: PurePosixPath(name).with_name(result_name(project.path(name))) for name in names}
    owners: dict[str, str] = {}
    for name, stem in stems.items():
        other = owners.setdefault(str(stem).casefold(), name)
        if other != name:
            raise InputError(
                f"{other} and {name} would both write {stem}...; expected images with different names. Export them "
                "into different folders.",
                kind="conflict",
            )
    return stems


def _write_one(project: Project, stem: Path, name: str, format_name: str) -> Path:
    kind = LABEL_FORMATS[format_name]
    path = stem.with_name(stem.name + kind.ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    output = LabelOutput(
        labels=project.labels(name),
        pixel_size_um=project.pixel_size_um(name),
        read_pixels=lambda: project.read(name).pixels,
    )
    kind.write(path, output)
    return path


def _write_coco(project: Project, out: Path, names: Sequence[str]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    write_coco(out / COCO_NAME, ((name, project.labels(name)) for name in names), "cells of a cellsam-engine project")
    return out / COCO_NAME


def _write_pair(project: Project, out: Path, name: str, stem: PurePosixPath) -> Iterator[Path]:
    """Write an image and its labels into one folder; subfolders become part of the name."""
    out.mkdir(parents=True, exist_ok=True)
    begin = "__".join(stem.parts).removesuffix("_img")
    project.check(name)
    source = project.path(name)
    if project.files == FileOptions() and source.suffix.lower() in SMALL_SUFFIXES:
        image = out / f"{begin}_img{source.suffix}"
        write_whole(image, lambda temporary: shutil.copyfile(source, temporary))
    else:  # the channels and the plane that the project uses
        image = out / f"{begin}_img.npy"
        pixels = project.read(name).pixels

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # given a name, numpy would add a suffix
                np.save(file, pixels, allow_pickle=False)

        write_whole(image, write)
    yield image
    mask = out / f"{begin}_mask.tif"
    write_labels(mask, project.labels(name), project.pixel_size_um(name))
    yield mask
