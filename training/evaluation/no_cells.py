"""Images without cells (photographs, text, noise, gradients), in which every predicted cell is false.

The photographs come with scikit-image; all other images are made here and are the same on every call. Pictures of
scikit-image that show cells or tissue are left out, as are coins and galaxies, which look like cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32

DATASET = "no_cells"

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "clock", "coffee"),
    *("grass", "gravel", "moon", "page", "rocket", "text"),
)
"""Functions of ``skimage.data`` whose pictures are part of scikit-image, so none is downloaded."""

SIDE_PX = 512
"""Side of the images made here, pixels."""


def write_no_cells(out: Path) -> list[str]:
    """Write the images with empty label maps, in a layout that ``dataset.find_samples`` reads.

    Args:
        out: directory; the files are ``out/no_cells/<id>_img.png`` and ``<id>_mask.png``, about 6 MB.

    Returns:
        Their ids.
    """
    from PIL import Image

    folder = out / DATASET
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, image in images():
        Image.fromarray(image).save(folder / f"{name}_img.png")
        Image.fromarray(np.zeros(image.shape[:2], np.uint16)).save(folder / f"{name}_mask.png")
        names.append(name)
    return names


def images() -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield id and image, (H, W) uint8 or uint16, or (H, W, 3) uint8, of every image without cells."""
    from skimage import data

    for name in PHOTOGRAPHS:
        yield f"photo_{name}", getattr(data, name)()
    for name, make in _MADE.items():
        yield name, make(np.random.default_rng(list(name.encode())))


def _blank(_rng: np.random.Generator) -> NDArray[Any]:
    return np.full((SIDE_PX, SIDE_PX), 90, np.uint8)


def _gaussian_noise(rng: np.random.Generator) -> NDArray[Any]:
    return _bytes(100 + 12 * rng.standard_normal((SIDE_PX, SIDE_PX)).astype(np.float32))


def _shot_noise(rng: np.random.Generator) -> NDArray[Any]:
    """Image of a dark camera: few photons, 12 bits."""
    return (100 + 8 * rng.poisson(3.0, (SIDE_PX, SIDE_PX))).astype(np.uint16)


def _colour_noise(rng: np.random.Generator) -> NDArray[Any]:
    return rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)


def _gradient(rng: np.random.Generator) -> NDArray[Any]:
    x, y = _grid()
    return _bytes(40 + 150 * (0.7 * x + 0.3 * y) + rng.standard_normal(x.shape))


def _vignette(rng: np.random.Generator) -> NDArray[Any]:
    """Image of an empty field under uneven light."""
    x, y = _grid()
    return _bytes(190 * np.exp(-1.5 * ((x - 0.45) ** 2 + (y - 0.55) ** 2)) + 2 * rng.standard_normal(x.shape))


def _colour_gradient(_rng: np.random.Generator) -> NDArray[Any]:
    x, y = _grid()
    return np.stack([_bytes(255 * x), _bytes(255 * y), _bytes(255 * (1 - x))], axis=-1)


def _stripes(rng: np.random.Generator) -> NDArray[Any]:
    x, y = _grid()
    return _bytes(128 + 90 * np.sin(2 * np.pi * (14 * x + 5 * y)) + 4 * rng.standard_normal(x.shape))


def _lines_of_text(rng: np.random.Generator) -> NDArray[Any]:
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", (SIDE_PX, SIDE_PX), 235)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(18)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      "))
    for top in range(16, SIDE_PX - 24, 28):
        draw.text((16, top), "".join(rng.choice(letters, 46)), fill=20, font=font)
    return np.asarray(page)


_MADE: Mapping[str, Callable[[np.random.Generator], NDArray[Any]]] = {
    "blank": _blank,
    "colour_gradient": _colour_gradient,
    "colour_noise": _colour_noise,
    "gaussian_noise": _gaussian_noise,
    "gradient": _gradient,
    "lines_of_text": _lines_of_text,
    "shot_noise": _shot_noise,
    "stripes": _stripes,
    "vignette": _vignette,
}
"""Images made here, by id; the id is also the seed."""


def _grid() -> tuple[F32, F32]:
    """Return x and y of every pixel, 0 to 1."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32) / np.float32(SIDE_PX - 1)
    return x, y


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
