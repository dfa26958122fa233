"""Contact sheets of synthetic images for the documentation: one row per group, the last image with outlines.

python -m benchmarks.synthetic_sheets
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from runtime.files.outputs.overlay import draw_overlay
from runtime.files.placing import write_whole
from training.data.synthetic import SYNTHETIC_GROUPS, MadeImage, make_image

OUT = Path("docs/synthetic")
PANEL_PX = 168
GAP_PX = 3
CAPTION_PX = 14
SHOWN_CELLS = 9.0
"""Side of a panel in median diameters, if the image is large enough."""
SEEDS = (0, 1, 2, 5)

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "nuclei": ("nuclei_", "smear_"),
    "culture": ("culture_", "monolayer_", "quantitative_"),
    "tissue": ("tissue_", "epithelium_", "plant_"),
    "phase": ("phase_",),
    "dic_brightfield": ("dic_", "brightfield_"),
    "bacteria": ("bacteria_", "cocci_"),
    "yeast": ("yeast_",),
    "empty": ("empty_",),
}
"""Prefixes of the group names on each sheet."""


def panel(made: MadeImage, *, outlined: bool) -> Image.Image:
    """Draw the part of an image with the most cells, with its contrast stretched, with or without outlines."""
    labels = made.labels if outlined else np.zeros_like(made.labels)
    shown = Image.fromarray(draw_overlay(made.image, labels))
    scale = shown.width // made.labels.shape[1]
    side = min(made.labels.shape)
    if made.median_diameter_px:
        side = int(min(side, max(SHOWN_CELLS * made.median_diameter_px, PANEL_PX)))
    starts = np.linspace(0, made.labels.shape[0] - side, 9).astype(int)
    corners = [(int(top), int(left)) for top in starts for left in starts]
    top, left = max(corners, key=lambda yx: int((made.labels[yx[0] :, yx[1] :][:side, :side] > 0).sum()))
    square = shown.crop((scale * left, scale * top, scale * (left + side), scale * (top + side)))
    return square.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)


def sheet(groups: list[str]) -> Image.Image:
    """Draw rows of panels below the names of their groups."""
    pitch = PANEL_PX + GAP_PX
    out = Image.new("RGB", (len(SEEDS) * pitch - GAP_PX, len(groups) * (pitch + CAPTION_PX)), "white")
    draw = ImageDraw.Draw(out)
    for row, group in enumerate(groups):
        top = row * (pitch + CAPTION_PX)
        draw.text((2, top + 1), group, fill="black")
        for column, seed in enumerate(SEEDS):
            made = make_image(group, seed)
            out.paste(panel(made, outlined=column == len(SEEDS) - 1), (column * pitch, top + CAPTION_PX))
    return out


def _save(picture: Image.Image, path: Path) -> None:
    picture.save(path, format="JPEG", quality=78)


def main(out: Path = OUT) -> None:
    """Write every sheet."""
    for family, beginnings in FAMILIES.items():
        picture = sheet([name for name in SYNTHETIC_GROUPS if name.startswith(beginnings)])
        path = out / f"{family}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, partial(_save, picture))
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
