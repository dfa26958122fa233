"""The registry of groups, and ``make_image``."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError
from training.data.records import Group
from training.data.synthetic.camera import Stored
from training.data.synthetic.fields import log_uniform
from training.data.synthetic.layouts import packed, rods, round, spread
from training.data.synthetic.render import fluorescence, transmitted
from training.data.synthetic.render.clutter import annotated
from training.data.synthetic.scene import Scene

I32 = NDArray[np.int32]

Channels = Literal["whole-cell", "nuclear, whole-cell", "rgb"]
Contrast = Literal["bright", "dark", "outline", "mixed"]

MARGIN_PX = 24
"""Drawn around an image and cut off: optics is periodic, and cells at the edge are cut by the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticGroup:
    """One kind of made image."""

    name: str
    kind: Group
    """Data type of the evaluation."""
    diameter_px: tuple[float, float]
    """Range from which an image's median diameter is drawn, by its logarithm."""
    cells: tuple[int, int]
    """Least and largest number of cells in 512 x 512 pixels."""
    channels: Channels
    contrast: Contrast
    """Cells against ground: brighter, darker, bright outlines, or either."""
    arrange: Callable[[np.random.Generator, tuple[int, int], float], Scene]
    render: Callable[[Scene, np.random.Generator], Stored]


@dataclass(frozen=True, slots=True)
class MadeImage:
    """One made image."""

    image: NDArray[Any]
    """(H, W), (H, W, 2) nuclear and whole-cell, or (H, W, 3) RGB; uint8 or uint16."""
    labels: I32
    """(H, W), 0 background, 1..n; every label is one part, corners connect."""
    group: str
    kind: Group
    channels: Channels
    median_diameter_px: float
    """Of discs of the cells' areas in the image; 0 without cells."""


def _group(name: str, kind: Group, channels: Channels, contrast: Contrast, **rest: Any) -> SyntheticGroup:
    return SyntheticGroup(name=f"synthetic/{name}", kind=kind, channels=channels, contrast=contrast, **rest)


def _transmitted(name: str, kind: Group, contrast: Contrast, **rest: Any) -> SyntheticGroup:
    render, body = rest.pop("render"), rest.pop("body")
    return _group(name, kind, "whole-cell", contrast, render=partial(render, body=body), **rest)


_ROUND_CELLS = partial(round.scattered, aspect=(1.0, 1.35), roughness=(0.005, 0.05), hidden=0.1, coverage=(0.02, 0.35))
_MONOLAYER = partial(packed.packed, stretch=(1.0, 2.5), bend=(0.1, 0.5), gap_px=(0.0, 4.0), missing=(0.0, 0.3))
_CULTURE_PX = (22.0, 80.0)
_RODS_PX = (9.0, 34.0)
_YEAST_PX = (14.0, 60.0)

_ALL = (
    _group(
        "nuclei_fluorescence",
        "Nuclear",
        "whole-cell",
        "bright",
        diameter_px=(10.0, 70.0),
        cells=(1, 500),
        arrange=round.scattered,
        render=fluorescence.nuclei,
    ),
    _group(
        "culture_fluorescence",
        "Cell Culture",
        "whole-cell",
        "bright",
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=fluorescence.cytoplasm,
    ),
    _group(
        "culture_nuclear_cell",
        "Cell Culture",
        "nuclear, whole-cell",
        "bright",
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=fluorescence.nuclear_and_cell,
    ),
    _group(
        "tissue_nuclear_membrane",
        "Tissue",
        "nuclear, whole-cell",
        "mixed",
        diameter_px=(12.0, 48.0),
        cells=(10, 3000),
        arrange=packed.tissue,
        render=fluorescence.tissue,
    ),
    _group(
        "epithelium_membrane",
        "Tissue",
        "whole-cell",
        "outline",
        diameter_px=(18.0, 90.0),
        cells=(10, 1500),
        arrange=packed.packed,
        render=fluorescence.membranes,
    ),
    _group(
        "plant_walls",
        "Tissue",
        "whole-cell",
        "outline",
        diameter_px=(16.0, 80.0),
        cells=(10, 2000),
        arrange=partial(packed.packed, size_range=5.0, bend=(0.02, 0.15), missing=(0.0, 0.1), stretch=(1.0, 3.0)),
        render=fluorescence.plant_walls,
    ),
    _transmitted(
        "phase_positive",
        "Cell Culture",
        "mixed",
        body=transmitted.MAMMALIAN,
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=transmitted.positive_phase,
    ),
    _transmitted(
        "phase_negative",
        "Cell Culture",
        "bright",
        body=transmitted.MAMMALIAN,
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=transmitted.negative_phase,
    ),
    _transmitted(
        "phase_confluent",
        "Cell Culture",
        "mixed",
        body=transmitted.MAMMALIAN,
        diameter_px=(16.0, 56.0),
        cells=(10, 1500),
        arrange=_MONOLAYER,
        render=transmitted.positive_phase,
    ),
    _transmitted(
        "dic_round",
        "Cell Culture",
        "mixed",
        body=transmitted.MAMMALIAN,
        diameter_px=(16.0, 80.0),
        cells=(1, 300),
        arrange=_ROUND_CELLS,
        render=transmitted.relief,
    ),
    _transmitted(
        "dic_culture",
        "Cell Culture",
        "mixed",
        body=transmitted.MAMMALIAN,
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=transmitted.relief,
    ),
    _transmitted(
        "brightfield_culture",
        "Cell Culture",
        "mixed",
        body=transmitted.MAMMALIAN,
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=transmitted.focus_series,
    ),
    _transmitted(
        "brightfield_round",
        "Cell Culture",
        "mixed",
        body=transmitted.MAMMALIAN,
        diameter_px=(12.0, 70.0),
        cells=(1, 400),
        arrange=_ROUND_CELLS,
        render=transmitted.focus_series,
    ),
    _transmitted(
        "quantitative_phase",
        "Cell Culture",
        "bright",
        body=transmitted.MAMMALIAN,
        diameter_px=_CULTURE_PX,
        cells=(1, 260),
        arrange=spread.culture,
        render=transmitted.phase_map,
    ),
    _transmitted(
        "bacteria_phase",
        "Bacteria",
        "dark",
        body=transmitted.BACTERIA,
        diameter_px=_RODS_PX,
        cells=(1, 600),
        arrange=rods.scattered_rods,
        render=transmitted.positive_phase,
    ),
    _transmitted(
        "bacteria_phase_negative",
        "Bacteria",
        "bright",
        body=transmitted.BACTERIA,
        diameter_px=_RODS_PX,
        cells=(1, 600),
        arrange=rods.scattered_rods,
        render=transmitted.negative_phase,
    ),
    _transmitted(
        "bacteria_brightfield",
        "Bacteria",
        "mixed",
        body=transmitted.BACTERIA,
        diameter_px=_RODS_PX,
        cells=(1, 600),
        arrange=rods.scattered_rods,
        render=transmitted.focus_series,
    ),
    _transmitted(
        "bacteria_cocci",
        "Bacteria",
        "dark",
        body=transmitted.BACTERIA,
        diameter_px=(7.0, 22.0),
        cells=(1, 600),
        arrange=round.cocci,
        render=transmitted.positive_phase,
    ),
    _transmitted(
        "bacteria_filaments",
        "Bacteria",
        "dark",
        body=transmitted.BACTERIA,
        diameter_px=(14.0, 44.0),
        cells=(1, 150),
        arrange=rods.filaments,
        render=transmitted.positive_phase,
    ),
    _transmitted(
        "bacteria_mother_machine",
        "Bacteria",
        "mixed",
        body=transmitted.BACTERIA,
        diameter_px=(10.0, 34.0),
        cells=(0, 500),
        arrange=rods.mother_machine,
        render=transmitted.positive_phase,
    ),
    _group(
        "bacteria_fluorescence",
        "Bacteria",
        "whole-cell",
        "bright",
        diameter_px=_RODS_PX,
        cells=(1, 600),
        arrange=rods.scattered_rods,
        render=fluorescence.bacteria,
    ),
    _transmitted(
        "yeast_phase",
        "Yeast",
        "mixed",
        body=transmitted.YEAST,
        diameter_px=_YEAST_PX,
        cells=(1, 400),
        arrange=round.budding,
        render=transmitted.positive_phase,
    ),
    _transmitted(
        "yeast_brightfield",
        "Yeast",
        "mixed",
        body=transmitted.YEAST,
        diameter_px=_YEAST_PX,
        cells=(1, 400),
        arrange=round.budding,
        render=transmitted.focus_series,
    ),
    _transmitted(
        "yeast_dic",
        "Yeast",
        "mixed",
        body=transmitted.YEAST,
        diameter_px=_YEAST_PX,
        cells=(1, 400),
        arrange=round.budding,
        render=transmitted.relief,
    ),
)

SYNTHETIC_GROUPS: Mapping[str, SyntheticGroup] = {group.name: group for group in _ALL}


def group_of(name: str) -> SyntheticGroup:
    """A group by its name, with or without 'synthetic/'.

    Raises:
        DataError: there is none.
    """
    full = name if name.startswith("synthetic/") else f"synthetic/{name}"
    if full not in SYNTHETIC_GROUPS:
        known = ", ".join(key.removeprefix("synthetic/") for key in SYNTHETIC_GROUPS)
        raise DataError(f"group is {name!r}; expected one of {known}.")
    return SYNTHETIC_GROUPS[full]


def make_image(group: str, seed: int, size_hw: tuple[int, int] = (512, 512)) -> MadeImage:
    """Make an image with exact instance labels; it depends on the arguments alone.

    Args:
        group: a name of ``SYNTHETIC_GROUPS``; 'synthetic/' may be left out.
        seed: 0 or more.
        size_hw: size of the image, at least 64 pixels each way.

    Raises:
        DataError: no such group, or another size or seed.
    """
    chosen = group_of(group)
    if min(size_hw) < 64 or seed < 0:
        raise DataError(f"size_hw is {size_hw} and seed {seed}; expected at least (64, 64) and 0.")
    rng = np.random.default_rng((seed, zlib.crc32(chosen.name.encode())))
    diameter = log_uniform(rng, *chosen.diameter_px)
    drawn_hw = (size_hw[0] + 2 * MARGIN_PX, size_hw[1] + 2 * MARGIN_PX)
    scene = chosen.arrange(rng, drawn_hw, diameter)
    inner = (slice(MARGIN_PX, -MARGIN_PX), slice(MARGIN_PX, -MARGIN_PX))
    image: NDArray[Any] = np.ascontiguousarray(chosen.render(scene, rng)[inner])
    if rng.random() < 0.04:
        image = annotated(image, rng)
    labels = _parts(scene.labels[inner])
    areas = np.bincount(labels.ravel())[1:]
    median = float(2 * np.sqrt(np.median(areas) / np.pi)) if len(areas) else 0.0
    return MadeImage(image, labels, chosen.name, chosen.kind, chosen.channels, median)


def _parts(labels: I32) -> I32:
    """Number every connected part: the edge of an image may cut a cell in two."""
    from skimage.measure import label

    parts: I32 = label(labels, background=0, connectivity=2).astype(np.int32)  # type: ignore[no-untyped-call]
    return parts
