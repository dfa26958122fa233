"""Commands that ``benchmarks.kills`` interrupts, each on small synthetic input, and digests of their results."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.made_slide import NoisySlide
from runtime.engines.manifest import MANIFEST_NAME
from runtime.engines.sums import SUMS_NAME
from training.data import FolderOptions, build_dataset, find_datasets

JOURNAL = "segmented.jsonl"

Arguments = list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One command of ``cellsam-engine``. Its functions receive the input folder and the results folder."""

    prepare: Callable[[Path], None]
    """Create the inputs in an empty folder."""
    arguments: Callable[[Path, Path], Arguments]
    start: Callable[[Path, Path], None] = lambda inputs, out: None
    """Put the files that the command expects into the results folder."""
    passed_over: tuple[str, ...] = ()
    """Patterns of files that describe a run rather than its result; they are not compared."""
    remark: str = ""


def contents(case: Case, out: Path) -> dict[str, str]:
    """Return the hex sha256 of every compared file under ``out``, by path; '' for directories.

    The digests leave out what differs between equal results: the time of an export, everything but the scores of an
    evaluation, and all lines but the last of each image in the journal of a folder.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not is_passed_over(case, name):
            found[name] = hashlib.sha256(_content(path)).hexdigest() if path.is_file() else ""
    return found


def is_passed_over(case: Case, name: str) -> bool:
    """Return whether a file is left out of the comparison; hidden and partial files never are."""
    return not is_leftover(name) and any(fnmatch.fnmatch(name, pattern) for pattern in case.passed_over)


def is_leftover(name: str) -> bool:
    """Return whether a path is that of a temporary file or directory."""
    return any(part.startswith(".") or part.endswith(".partial") for part in name.split("/"))


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == SUMS_NAME:
        return b"".join(line for line in content.splitlines(True) if MANIFEST_NAME.encode() not in line)
    if path.name == JOURNAL:
        return _last_words(content.decode())
    if path.suffix == ".json":
        record = json.loads(content)
        if isinstance(record, dict) and record.get("kind") == "evaluation":
            return json.dumps(record["rows"]).encode()
        if isinstance(record, dict) and "created" in record:
            return json.dumps({**record, "created": ""}).encode()
    return content


def _last_words(journal: str) -> bytes:
    """Return the last line of each image; skip lines that a kill cut short."""
    words: dict[str, Any] = {}
    for line in journal.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if "image" in content:
            words[content["image"]] = content
    return json.dumps(words, sort_keys=True).encode()


# Inputs.

MODEL: Mapping[str, Any] = {
    "image_size": 160,
    "encoder_dim": 48,
    "encoder_depth": 4,
    "encoder_heads": 4,
    "window_size": 4,
    "global_attention_blocks": (1, 3),
    "embedding_dim": 64,
    "decoder_mlp_dim": 96,
    "decoder_heads": 4,
    "iou_head_dim": 32,
    "finder_dim": 64,
    "finder_heads": 4,
    "finder_groups": 8,
    "finder_ff_dim": 96,
    "finder_encoder_layers": 2,
    "finder_decoder_layers": 3,
    "anchors": 100,
    "stem": (8, 16, 24),
}
"""Sizes that replace those of the preset ``nano``, so that a step takes a fraction of a second."""


def _images(folder: Path, sides: Sequence[int]) -> None:
    folder.mkdir(parents=True)
    for number, side in enumerate(sides):
        pixels = NoisySlide((side, side), seed=number).read(0, 0, side, side)[..., 0]
        Image.fromarray(pixels).save(folder / f"image{number}.png")


def _pairs(folder: Path, count: int, side: int = 160) -> None:
    """Write images and labels in the layout that ``data build folder`` reads."""
    folder.mkdir(parents=True)
    for number in range(count):
        slide = NoisySlide((side, side), seed=number)
        _, labels = np.unique(slide.truth(0, 0, side, side), return_inverse=True)
        Image.fromarray(slide.read(0, 0, side, side)[..., 0]).save(folder / f"made{number}_img.png")
        Image.fromarray(labels.reshape(side, side).astype(np.uint16)).save(folder / f"made{number}_mask.png")


def _checkpoint(inputs: Path) -> None:
    import torch

    from training.checkpoint import save_checkpoint
    from training.model import CellSAM
    from training.recipe import load_recipe

    recipe = {"preset": "nano", "model": MODEL, "precision": "32-true"}
    recipe["stage1"] = {"steps": 30, "batch_size": 1, "warmup_steps": 2}
    (inputs / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    torch.manual_seed(1)
    model = CellSAM(load_recipe(inputs / "recipe.json").model)
    save_checkpoint(inputs / "small.pt", model, licence="CC0-1.0")


def _engines(inputs: Path) -> None:
    from export.exporter import ExportConfig, export_engines

    _checkpoint(inputs)
    export_engines(inputs / "small.pt", inputs / "engines", ExportConfig(precision="fp16"))


def _training(inputs: Path) -> None:
    _checkpoint(inputs)
    _pairs(inputs / "pairs", 6)
    options = FolderOptions(groups={"": "Nuclear"})
    for dataset in find_datasets("folder", inputs / "pairs", options):
        build_dataset(dataset, inputs / "data")


def _finetuning(inputs: Path) -> None:
    _checkpoint(inputs)
    _pairs(inputs / "pairs", 3)


# Commands.


def _segment(*options: str) -> Callable[[Path, Path], Arguments]:
    return lambda inputs, out: ["segment", str(inputs / "images"), "--out", str(out), "--backend", "cpu", *options]


def _build_case() -> Case:
    """Build plans if TensorRT and a GPU exist; otherwise a dry run, with a report if TensorRT for RTX is installed."""
    from training.evaluation.environment import describe_environment

    def copy(inputs: Path, out: Path) -> None:
        shutil.copytree(inputs / "engines", out / "engines")

    if importlib.util.find_spec("tensorrt") and describe_environment()["gpus"]:
        # Plans, measured times and the timing cache differ between builds.
        return Case(
            prepare=_engines,
            start=copy,
            arguments=lambda inputs, out: ["build", str(out / "engines"), "--optimization-level", "0"],
            passed_over=("engines/tensorrt/*/*", "engines/tensorrt/*.timing"),
        )
    report = ["--report"] if importlib.util.find_spec("tensorrt_rtx") else []
    return Case(
        prepare=_engines,
        start=copy,
        arguments=lambda inputs, out: ["build", str(out / "engines"), "--dry-run", *report],
        remark="no TensorRT or no GPU: a dry run, which must not change the directory",
    )


_TRAIN = ("--accelerator", "cpu", "--save-every", "10", "--pictures-every", "0")

CASES: dict[str, Callable[[], Case]] = {
    "segment-folder": lambda: Case(
        prepare=lambda inputs: _images(inputs / "images", range(80, 200, 10)),
        arguments=_segment("--overlay", "--format", "ome-zarr", "--format", "csv"),
    ),
    "segment-slide": lambda: Case(
        prepare=lambda inputs: _images(inputs / "images", [900]),
        arguments=_segment("--as-slide", "--diameter", "25", "--tile-size", "200", "--tile-overlap", "63"),
    ),
    "segment-cluster": lambda: Case(
        prepare=lambda inputs: _images(inputs / "images", range(80, 200, 10)),
        arguments=_segment("--cluster", "local", "--workers", "2"),
    ),
    "data-build": lambda: Case(
        prepare=lambda inputs: _pairs(inputs / "pairs", 30),
        arguments=lambda inputs, out: [
            *("data", "build", "folder", "--source", str(inputs / "pairs"), "--out", str(out / "data")),
            *("--group", "Nuclear"),
        ],
    ),
    "export": lambda: Case(
        prepare=_checkpoint,
        arguments=lambda inputs, out: [
            *("export", "--checkpoint", str(inputs / "small.pt"), "--out", str(out / "engines"), "--force")
        ],
    ),
    "build": _build_case,
    "train": lambda: Case(
        prepare=_training,
        arguments=lambda inputs, out: [
            *("train", "1", "--data", str(inputs / "data"), "--out", str(out / "run"), *_TRAIN),
            *("--recipe", str(inputs / "recipe.json"), "--init", str(inputs / "small.pt")),
        ],
        # Logs of each start, and Lightning's record of its progress.
        passed_over=("run/csv/*", "run/tensorboard/*", "run/last.ckpt"),
    ),
    "finetune": lambda: Case(
        prepare=_finetuning,
        arguments=lambda inputs, out: [
            *("finetune", str(inputs / "pairs"), "--out", str(out / "engines"), "--init", str(inputs / "small.pt")),
            *("--recipe", str(inputs / "recipe.json"), "--accelerator", "cpu", "--backend", "cpu"),
        ],
        passed_over=tuple(f"engines.finetune/train/{name}" for name in ("csv/*", "tensorboard/*", "last.ckpt")),
    ),
}
"""Cases by name; within each kind, the cheapest comes first."""
