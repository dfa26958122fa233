"""Writer of projects for napari: images and the labels that people have corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.correction.project import Project
from runtime.correction.project_file import PROJECT_NAME
from runtime.errors import InputError
from runtime.files.label_files.label_image import check_label_image
from runtime.files.placing import write_whole
from runtime.napari.layer_data import LayerData, noted
from runtime.types import I32

IMAGES = "images"
"""Folder, inside a project, of images that are not in files of their own."""

OPERATION = "napari"
"""Operation in the journal of a project."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledImage:
    """An image and its labels."""

    name: str
    pixels: NDArray[Any]
    """(H, W) or (H, W, C)."""
    labels: I32
    """(H, W), 0 background."""
    path: Path | None = None
    """The image file; None if the image is not in a file."""


def write_project(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write image and Labels layers as a project, or update the labels of an existing one.

    Args:
        path: the project directory.
        layers: image layers, and one Labels layer for each that belongs to the project.

    Returns:
        The path of ``project.json``.

    Raises:
        InputError: a Labels layer belongs to no image layer, has another size, or is a stack.
        ProjectError: the project is open in another process.
    """
    return [str(save_project(Path(path), pair_layers(layers)))]


def pair_layers(layers: Sequence[LayerData]) -> list[LabelledImage]:
    """Match Labels layers to image layers: by what this plugin noted, else by size, else the only image.

    Raises:
        InputError: a Labels layer belongs to no image layer or to several, or a layer is a stack.
    """
    images = {attributes["name"]: (data, attributes) for data, attributes, kind in layers if kind == "image"}
    pairs = []
    for data, attributes, kind in layers:
        if kind != "labels":
            continue
        labels = check_label_image(np.asarray(data), f"layer {attributes['name']!r}").astype(np.int32)
        name = noted(attributes["metadata"], "image")
        if name is None or name not in images:
            name = _image_of_size(images, labels.shape, attributes["name"])
        pixels, of_image = images[name]
        path = noted(of_image["metadata"], "path")
        pairs.append(
            LabelledImage(
                name=name, pixels=np.asarray(pixels), labels=labels, path=None if path is None else Path(path)
            )
        )
    return pairs


def _image_of_size(images: dict[str, Any], shape: tuple[int, ...], name: str) -> str:
    fitting = [key for key, (data, _) in images.items() if np.shape(data)[:2] == shape]
    if len(fitting) != 1:
        raise InputError(
            f"{len(fitting)} image layers have the size of the Labels layer {name!r}, {shape}; expected one. Select "
            "the image and its labels alone, then save again.",
            kind="conflict" if fitting else "not_found",
        )
    return fitting[0]


def save_project(directory: Path, images: Sequence[LabelledImage], *, author: str = "") -> Path:
    """Create a project, or store the labels in an existing one as edits that can be undone.

    A new project refers to the image files. If an image is not in a file, all images are written to the project.

    Args:
        directory: the project directory.
        images: the images.
        author: who has corrected them.

    Returns:
        The path of ``project.json``.

    Raises:
        InputError: there are no images, two have the same name, or labels have another size than their image.
        ProjectError: the project is open in another process.
    """
    with _opened(directory, images) as project:
        by_path = {project.path(name).resolve(): name for name in project.names}
        for place in _add_missing(project, by_path, images):
            name, labels = by_path[place.path], place.image.labels
            if not np.array_equal(project.labels(name), labels):
                project.store_segmentation(name, labels, operation=OPERATION, author=author, state="corrected")
    return directory / PROJECT_NAME


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    image: LabelledImage
    path: Path
    """The image file, resolved."""


def _opened(directory: Path, images: Sequence[LabelledImage]) -> Project:
    if (directory / PROJECT_NAME).exists():
        return Project.open(directory)
    return Project.create(directory, [one.path for one in _placed(directory, images)])


def _placed(directory: Path, images: Sequence[LabelledImage]) -> list[_Placed]:
    """Return the file of each image; write all images unless each is in a file."""
    if all(one.path is not None and one.path.is_file() for one in images):
        return [_Placed(one, one.path.resolve()) for one in images if one.path is not None]
    names = [one.name for one in images]
    if len(set(names)) < len(names):
        raise InputError(
            f"several images have the same name, {', '.join(names)}; expected one Labels layer for each image, with "
            "different names. Rename the layers.",
            kind="conflict",
        )
    return [_Placed(one, _write_image(directory / IMAGES, one)) for one in images]


def _write_image(folder: Path, image: LabelledImage) -> Path:
    """Write an image as TIFF, unless it is there already."""
    import tifffile

    path = (folder / f"{image.name.replace('/', '_')}.tif").resolve()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        colours = "rgb" if image.pixels.ndim == 3 else "minisblack"
        write_whole(path, lambda temporary: tifffile.imwrite(temporary, image.pixels, photometric=colours))
    return path


def _add_missing(project: Project, by_path: dict[Path, str], images: Sequence[LabelledImage]) -> list[_Placed]:
    """Add the images that a project does not have yet, and their names to ``by_path``."""
    placed = _placed(project.directory, images)
    new = [one.path for one in placed if one.path not in by_path]
    by_path |= {project.path(name).resolve(): name for name in project.add(new)}
    return placed
