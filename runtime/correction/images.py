"""Images of a project: where their files are, and how they are recognised."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from msgspec import Meta

from runtime.errors import InputError
from runtime.files.fingerprint import content_sha256, file_mark
from runtime.files.formats import open_image
from runtime.files.formats.axes import Plane
from runtime.files.image_results import FileOptions, is_slide

_READING = ("series", "plane", "nuclear", "membrane", "rgb", "pixel_size_um", "strict")
"""Fields of ``FileOptions`` that concern reading."""

Length = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectImage:
    """One image of a project."""

    name: str
    """Relative POSIX path of the file below the folder of the images."""
    size_hw: tuple[Length, Length]
    """Height and width, pixels."""
    bytes: int
    mtime_ns: int
    """Size and modification time of the file when it was last recognised."""
    sha256: str
    """Hex sha256 of its content."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        if not self.name or path.is_absolute() or ".." in path.parts or "\\" in self.name or ":" in path.parts[0]:
            raise ValueError(f"name is {self.name!r}, expected a relative path below the folder of the images")


def describe_image(path: Path, name: str, options: FileOptions) -> ProjectImage:
    """Describe an image file that a project takes in.

    Raises:
        InputError: the file cannot be read, or is so large that it is segmented as a slide.
    """
    size_hw = _read_size(path, options)
    mark = file_mark(path)
    assert mark is not None, "it has just been read"
    return ProjectImage(name=name, size_hw=size_hw, sha256=content_sha256(path), **mark)


def recognise(path: Path, image: ProjectImage, options: FileOptions) -> ProjectImage:
    """Check that a file is still the image of a project.

    Returns:
        The image, with another modification time if the file was copied.

    Raises:
        InputError: the file was moved or deleted, or its content has changed.
    """
    mark = file_mark(path)
    if mark is None:
        raise InputError(
            f"{path} does not exist; expected image {image.name} of the project. If the images were moved, relocate "
            "the project to their folder.",
            kind="not_found",
        )
    if mark == {"bytes": image.bytes, "mtime_ns": image.mtime_ns}:
        return image
    if mark["bytes"] == image.bytes and content_sha256(path) == image.sha256:
        return replace(image, mtime_ns=mark["mtime_ns"])
    _check_size(path, _read_size(path, options), image)
    raise InputError(
        f"{path} has changed since it was added to the project; expected the content with the sha256 "
        f"{image.sha256[:16]}.... Restore the earlier file, or accept this one if its cells are in the same places.",
        kind="mismatch",
    )


def accept_altered(path: Path, image: ProjectImage, options: FileOptions) -> ProjectImage:
    """Describe an altered file that takes the place of an image.

    Raises:
        InputError: the file cannot be read, or has another size.
    """
    found = describe_image(path, image.name, options)
    _check_size(path, found.size_hw, image)
    return found


def _check_size(path: Path, size_hw: tuple[int, int], image: ProjectImage) -> None:
    if size_hw != image.size_hw:
        raise InputError(
            f"{path} has {size_hw[0]} x {size_hw[1]} pixels; expected {image.size_hw[0]} x {image.size_hw[1]}, the "
            "size of its labels. Restore the earlier file, or add this one under another name.",
            kind="mismatch",
        )


def name_images(paths: list[Path], root: Path) -> list[str]:
    """Return the names of images below a folder.

    Raises:
        InputError: an image is not below the folder.
    """
    names = []
    for path in paths:
        relative = Path(os.path.relpath(os.path.abspath(path), root))
        if relative.parts[0] == "..":
            raise InputError(
                f"{path} is not below {root}; expected an image of the folder of this project. Copy it there, or "
                "create another project.",
                kind="out_of_range",
            )
        names.append(relative.as_posix())
    return names


def common_folder(paths: list[Path]) -> Path:
    """Return the folder that contains all images.

    Raises:
        InputError: there are no images, or they are on different drives.
    """
    if not paths:
        raise InputError("a project has no images; expected at least one.", kind="missing", field="images")
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    except ValueError as error:
        raise InputError(
            f"the images are on different drives ({error}); expected one folder. Copy them to one drive.",
            kind="conflict",
        ) from error


def reading_options(options: FileOptions) -> dict[str, Any]:
    """Return the options for reading, for JSON."""
    return {name: value for name, value in asdict(options).items() if name in _READING}


def parse_reading_options(content: Mapping[str, Any]) -> FileOptions:
    """Build the options from the result of ``reading_options``.

    Raises:
        TypeError: a name is unknown.
    """
    return FileOptions(**{**content, "plane": Plane(**content.get("plane", {}))})


def _read_size(path: Path, options: FileOptions) -> tuple[int, int]:
    with open_image(path, series=options.series, plane=options.plane) as reader:
        size_hw = reader.size_hw
    if is_slide(path, size_hw, options.largest_px):
        raise InputError(
            f"{path} has {size_hw[1]} x {size_hw[0]} pixels, and counts as a slide; expected at most "
            f"{options.largest_px / 1e6:g} million, not in a whole-slide file. Save parts of it as images.",
            kind="too_large",
        )
    return size_hw
