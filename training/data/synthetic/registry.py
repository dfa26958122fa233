"""Registry of groups: each has an arrangement of cells, a way to render them, and ranges of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from training.data.records import Group
from training.data.synthetic.camera import Stored
from training.data.synthetic.layouts import packed, rods, round, spread
from training.data.synthetic.render import empty, fluorescence, stained, transmitted
from training.data.synthetic.scene import Scene

Channels = Literal["whole-cell", "nuclear, whole-cell", "rgb"]
Contrast = Literal["bright", "dark", "outline", "mixed"]
Arrange = Callable[[np.random.Generator, tuple[int, int], float], Scene]
Render = Callable[[Scene, np.random.Generator], Stored]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Kind and arrangement of cells."""

    kind: Group
    """Data type of the evaluation."""
    diameter_px: tuple[float, float]
    """Range of an image's median diameter, which is drawn log-uniformly, pixels."""
    cells: tuple[int, int]
    """Smallest and largest number of cells in 512 x 512 pixels."""
    arrange: Arrange


@dataclass(frozen=True, slots=True)
class SyntheticGroup:
    """One kind of synthetic image."""

    name: str
    setting: Setting
    render: Render
    channels: Channels
    contrast: Contrast
    """Cells relative to the background in most images: brighter, darker, with bright outlines, or mixed."""


_NUCLEI = Setting(kind="Nuclear", diameter_px=(10.0, 70.0), cells=(1, 520), arrange=round.scattered)
_SECTION = Setting(
    kind="Nuclear",
    diameter_px=(9.0, 36.0),
    cells=(1, 1200),
    arrange=partial(round.scattered, coverage=(0.05, 0.4), aspect=(1.1, 2.4), max_cells=1000),
)
_CULTURE = Setting(kind="Cell Culture", diameter_px=(22.0, 80.0), cells=(1, 300), arrange=spread.culture)
_MONOLAYER = Setting(
    kind="Cell Culture",
    diameter_px=(16.0, 56.0),
    cells=(10, 2000),
    arrange=partial(packed.packed, stretch=(1.0, 2.5), bend=(0.1, 0.5), gap_px=(0.0, 3.0), missing=(0.0, 0.3)),
)
_ROUND = Setting(
    kind="Cell Culture",
    diameter_px=(14.0, 80.0),
    cells=(1, 450),
    arrange=partial(round.scattered, aspect=(1.0, 1.35), roughness=(0.005, 0.05), hidden=0.1, coverage=(0.02, 0.35)),
)
_SMEAR = Setting(
    kind="Cell Culture",
    diameter_px=(18.0, 70.0),
    cells=(1, 450),
    arrange=partial(round.scattered, aspect=(1.0, 1.2), roughness=(0.01, 0.06), edge=0.6, coverage=(0.05, 0.45)),
)
_TISSUE = Setting(kind="Tissue", diameter_px=(12.0, 48.0), cells=(5, 3500), arrange=packed.tissue)
_EPITHELIUM = Setting(kind="Tissue", diameter_px=(18.0, 90.0), cells=(10, 1500), arrange=packed.packed)
_PLANT = Setting(
    kind="Tissue",
    diameter_px=(16.0, 80.0),
    cells=(5, 3500),
    arrange=partial(packed.packed, size_range=5.0, bend=(0.02, 0.15), missing=(0.0, 0.1), stretch=(1.0, 3.0)),
)
_RODS = Setting(kind="Bacteria", diameter_px=(9.0, 34.0), cells=(1, 700), arrange=rods.scattered_rods)
_COCCI = Setting(kind="Bacteria", diameter_px=(7.0, 22.0), cells=(1, 600), arrange=round.cocci)
_FILAMENTS = Setting(kind="Bacteria", diameter_px=(14.0, 44.0), cells=(1, 200), arrange=rods.filaments)
_CHANNELS = Setting(kind="Bacteria", diameter_px=(10.0, 34.0), cells=(0, 600), arrange=rods.mother_machine)
_YEAST = Setting(kind="Yeast", diameter_px=(14.0, 60.0), cells=(1, 450), arrange=round.budding)
_NOTHING = Setting(kind="Cell Culture", diameter_px=(20.0, 60.0), cells=(0, 0), arrange=empty.nothing)

_POSITIVE, _NEGATIVE = transmitted.positive_phase, transmitted.negative_phase
_BRIGHT_FIELD, _RELIEF = transmitted.focus_series, transmitted.relief
_CELL, _RODLIKE, _WALLED = transmitted.MAMMALIAN, transmitted.BACTERIA, transmitted.YEAST


_CONTRASTS: Mapping[Callable[..., Stored], Contrast] = {
    _POSITIVE: "dark",
    _NEGATIVE: "bright",
    transmitted.phase_map: "bright",
}


def _unstained(name: str, setting: Setting, show: Callable[..., Stored], body: transmitted.Body) -> SyntheticGroup:
    contrast: Contrast = "mixed"
    # Walls may be brighter or darker than the cells between them, and yeast is thick enough to invert the contrast.
    if setting is not _CHANNELS and body is not _WALLED:
        contrast = _CONTRASTS.get(show, "mixed")
    return SyntheticGroup(name, setting, partial(show, body=body), "whole-cell", contrast)


_BOTH: Channels = "nuclear, whole-cell"
_ALL = (
    SyntheticGroup("nuclei_fluorescence", _NUCLEI, fluorescence.nuclei, "whole-cell", "bright"),
    SyntheticGroup("nuclei_he", _SECTION, stained.haematoxylin_eosin, "rgb", "dark"),
    SyntheticGroup("nuclei_ihc", _SECTION, stained.immunohistochemistry, "rgb", "dark"),
    SyntheticGroup("culture_fluorescence", _CULTURE, fluorescence.cytoplasm, "whole-cell", "bright"),
    SyntheticGroup("culture_nuclear_cell", _CULTURE, fluorescence.nuclear_and_cell, _BOTH, "bright"),
    SyntheticGroup("monolayer_nuclear_cell", _MONOLAYER, fluorescence.nuclear_and_cell, _BOTH, "mixed"),
    SyntheticGroup("tissue_nuclear_membrane", _TISSUE, fluorescence.tissue, _BOTH, "mixed"),
    SyntheticGroup("epithelium_membrane", _EPITHELIUM, fluorescence.membranes, "whole-cell", "outline"),
    SyntheticGroup("plant_walls", _PLANT, fluorescence.plant_walls, "whole-cell", "outline"),
    SyntheticGroup("smear_giemsa", _SMEAR, stained.blood_smear, "rgb", "dark"),
    _unstained("phase_positive", _CULTURE, _POSITIVE, _CELL),
    _unstained("phase_negative", _CULTURE, _NEGATIVE, _CELL),
    _unstained("phase_confluent", _MONOLAYER, _POSITIVE, transmitted.MONOLAYER),
    _unstained("phase_round", _ROUND, _POSITIVE, _CELL),
    _unstained("dic_culture", _CULTURE, _RELIEF, _CELL),
    _unstained("dic_round", _ROUND, _RELIEF, _CELL),
    _unstained("brightfield_culture", _CULTURE, _BRIGHT_FIELD, _CELL),
    _unstained("brightfield_confluent", _MONOLAYER, _BRIGHT_FIELD, transmitted.MONOLAYER),
    _unstained("brightfield_round", _ROUND, _BRIGHT_FIELD, _CELL),
    _unstained("quantitative_phase", _CULTURE, transmitted.phase_map, _CELL),
    _unstained("bacteria_phase", _RODS, _POSITIVE, _RODLIKE),
    _unstained("bacteria_phase_negative", _RODS, _NEGATIVE, _RODLIKE),
    _unstained("bacteria_brightfield", _RODS, _BRIGHT_FIELD, _RODLIKE),
    _unstained("bacteria_cocci", _COCCI, _POSITIVE, _RODLIKE),
    _unstained("bacteria_filaments", _FILAMENTS, _POSITIVE, _RODLIKE),
    _unstained("bacteria_mother_machine", _CHANNELS, _POSITIVE, _RODLIKE),
    SyntheticGroup("bacteria_fluorescence", _RODS, fluorescence.bacteria, "whole-cell", "bright"),
    SyntheticGroup("cocci_fluorescence", _COCCI, fluorescence.bacteria, "whole-cell", "bright"),
    _unstained("yeast_phase", _YEAST, _POSITIVE, _WALLED),
    _unstained("yeast_brightfield", _YEAST, _BRIGHT_FIELD, _WALLED),
    _unstained("yeast_dic", _YEAST, _RELIEF, _WALLED),
    SyntheticGroup("yeast_fluorescence", _YEAST, fluorescence.cytoplasm, "whole-cell", "bright"),
    SyntheticGroup("empty_fluorescence", _NOTHING, fluorescence.nuclei, "whole-cell", "mixed"),
    SyntheticGroup("empty_phase", _NOTHING, partial(_POSITIVE, body=_CELL), "whole-cell", "mixed"),
    SyntheticGroup("empty_brightfield", _NOTHING, partial(_BRIGHT_FIELD, body=_CELL), "whole-cell", "mixed"),
    SyntheticGroup("empty_stained", _NOTHING, stained.haematoxylin_eosin, "rgb", "mixed"),
    SyntheticGroup("empty_photograph", _NOTHING, empty.photograph, "rgb", "mixed"),
    SyntheticGroup("empty_text", _NOTHING, empty.text, "rgb", "mixed"),
    SyntheticGroup("empty_surface", _NOTHING, empty.surface, "rgb", "mixed"),
)

PREFIX = "synthetic/"
"""Prefix of group names among names of datasets."""

SYNTHETIC_GROUPS: Mapping[str, SyntheticGroup] = {group.name: group for group in _ALL}
