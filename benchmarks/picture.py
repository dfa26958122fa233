"""Picture of the README: the sample images, segmented by the built-in model.

python -m benchmarks.picture
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from runtime import Segmenter
from runtime.engines.builtin import sample_images
from runtime.files.outputs.overlay import draw_overlay
from runtime.files.placing import write_whole
from runtime.files.plain import read_image

PICTURE = Path(__file__).parents[1] / "docs" / "overlay.png"
PANEL_PX = 448
GAP_PX = 6


def draw_samples(segmenter: Segmenter, images: list[Path]) -> Image.Image:
    """Draw overlays of the images side by side, each cropped to its central square."""
    panels = []
    for path in images:
        image = read_image(path)
        overlay = Image.fromarray(draw_overlay(image, segmenter(image).labels))
        side = min(overlay.size)
        left, top = (overlay.width - side) // 2, (overlay.height - side) // 2
        square = overlay.crop((left, top, left + side, top + side))
        panels.append(square.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS))
    row = np.full((PANEL_PX, len(panels) * (PANEL_PX + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for index, panel in enumerate(panels):
        start = index * (PANEL_PX + GAP_PX)
        row[:, start : start + PANEL_PX] = np.asarray(panel)
    return Image.fromarray(row)


def main(out: Path = PICTURE) -> None:
    """Write the picture."""
    picture = draw_samples(Segmenter(), sample_images())
    write_whole(out, lambda temporary: picture.save(temporary, format="PNG", optimize=True))
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    main()
