"""Improve a model on a kind of images that it has never seen, as a scripted annotator corrects more and more of them.

    python -m benchmarks.improve_curve --data DATA --dataset NAME --checkpoint FILE --settings FILE --work DIR

DATA has ``train/NAME`` and ``test/NAME`` with pairs ``ID_img.png`` and ``ID_mask.png``. For each count, the annotator
makes a project with that many training images, deletes every cell that the model has found, draws the true ones, and
marks the images done. ``cellsam-engine improve`` then makes an engine, which is scored on the test images, whether it
is promoted, provisional or rejected. A further project has its true cells shifted by 20 pixels; its engine must be
rejected. A killed run resumes in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_record
from export.finetune import unverified_engines
from export.improve.config import ImproveConfig
from export.improve.decision import Pair, change_of
from export.improve.run import improve
from export.improve.scoring import package_samples, score
from runtime.config import read_settings
from runtime.correction.edits.cells import Delete
from runtime.correction.edits.draw import Add
from runtime.correction.edits.shapes import Shape
from runtime.correction.engine_record import EngineRecord
from runtime.correction.engine_versions import engines_folder
from runtime.correction.project import Project
from runtime.ops.masks import label_crops
from runtime.segmenter import Segmenter
from runtime.types import I32
from training.checkpoint import save_checkpoint
from training.evaluation.dataset import Sample, find_samples, read_sample, select
from training.evaluation.plots import COLOURS, require_matplotlib
from training.usage import Usage
from training.weights import load_weights

SHIFT_PX = 20
"""Shift of the cells in the project that must be rejected."""

COUNTS = (0, 1, 2, 5, 11)
AUTHOR = "scripted annotator"


@dataclass(frozen=True, slots=True)
class Bench:
    """Inputs of all projects."""

    options: argparse.Namespace
    checkpoint: Path
    engines: Path
    """Engines of the checkpoint."""

    def samples(self, split: str) -> list[Sample]:
        """Return the images of a split."""
        return select(find_samples(self.options.data / split), [self.options.dataset])


def shift_cells(labels: I32, shift_px: int) -> I32:
    """Return (H, W) labels moved to the right; cells that leave the image are cut off."""
    if not shift_px:
        return labels
    moved = np.zeros_like(labels)
    moved[:, shift_px:] = labels[:, :-shift_px]
    return moved


def correct_images(bench: Bench, directory: Path, count: int, shift_px: int = 0) -> None:
    """Make a project, segment its images, replace every cell by a true one, and mark the images done."""
    chosen = bench.samples("train")[:count]
    create = not (directory / "project.json").is_file()
    paths = [sample.image_path for sample in chosen]
    project = Project.create(directory, paths) if create else Project.open(directory)
    with project, Segmenter(bench.engines, backend="cpu") as segmenter:
        for sample in chosen:
            name = sample.image_path.name
            if project.status(name).state == "done":
                continue
            image, truth = read_sample(sample)
            project.store_segmentation(name, segmenter(image), engine=EngineRecord.of(bench.engines), author=AUTHOR)
            found = tuple(project.areas(name))
            if found:
                project.apply(name, Delete(labels=found), author=AUTHOR)
            for crop in label_crops(shift_cells(truth, shift_px)):
                project.apply(name, Add(shape=Shape.of_mask(crop)), author=AUTHOR)
            project.mark(name, "done", author=AUTHOR)


def measure(bench: Bench, count: int, shift_px: int = 0) -> dict[str, Any]:
    """Correct images, improve the model, and score the new engine on the test images; a finished record is read."""
    options = bench.options
    directory = options.work / (f"shifted{count:02d}" if shift_px else f"count{count:02d}")
    record = directory / "result.json"
    if record.is_file():
        known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return known
    start, version, engines = time.perf_counter(), None, bench.engines
    if count:
        correct_images(bench, directory, count, shift_px)
        corrected_s = time.perf_counter() - start
        version = improve(_config(bench, directory), lambda step, done: _print(f"{directory.name} {step} {done:.1%}"))
        engines = engines_folder(directory) / version.version
    improved_s = time.perf_counter() - start
    test = bench.samples("test")
    new = score(engines, test, directory / "test.json", backend="cpu")
    old = score(bench.engines, test, options.work / "test_before.json", backend="cpu")
    result: dict[str, Any] = {"corrected": count, "shift_px": shift_px, "test": asdict(change_of(Pair(old, new)))}
    if version is None:
        samples = score(engines, package_samples(), directory / "samples.json", backend="cpu")
        result |= {"samples_f1": change_of(Pair(samples, samples)).new_f1}
    else:
        result |= {
            "state": version.state,
            "reasons": version.reasons,
            "scores": version.scores,
            "samples_f1": version.scores["samples"]["new_f1"],
            "trained_on": len(version.images),
            "annotator_s": round(corrected_s, 1),
            "improve_s": round(improved_s - corrected_s, 1),
        }
    directory.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _config(bench: Bench, directory: Path) -> ImproveConfig:
    options = bench.options
    return ImproveConfig(
        project=directory,
        init=str(bench.checkpoint),
        parts=options.parts,
        steps=options.steps,
        fold_steps=options.fold_steps,
        folds=options.folds,
        accelerator="cpu",
        backend="cpu",
    )


def prepare(options: argparse.Namespace) -> Bench:
    """Write the checkpoint with its settings and its engines, unless that is done."""
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = options.work / "first.pt"
    if not checkpoint.is_file():
        loaded = load_weights(options.checkpoint)
        settings = loaded.usage.settings if options.settings is None else read_settings(options.settings)
        usage = Usage(settings=settings, trained_channels=loaded.usage.trained_channels)
        save_checkpoint(checkpoint, loaded.model, licence=loaded.licence, usage=usage)
    return Bench(options, checkpoint, unverified_engines(load_weights(checkpoint), options.work / "first_engines"))


def plot_curve(path: Path, curve: list[dict[str, Any]]) -> None:
    """Plot the F1 on the test images and on the sample set against the number of corrected images, as PNG.

    Raises:
        InputError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = [row["corrected"] for row in curve]
    axes.plot(
        counts, [row["test"]["new_f1"] for row in curve], "o-", color=COLOURS[0], label="test images of the new kind"
    )
    axes.plot(counts, [row["samples_f1"] for row in curve], "o--", color=COLOURS[1], label="sample set")
    axes.set(xlabel="corrected images", ylabel="F1 at IoU 0.6", ylim=(0, 1), xticks=counts)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Measure all counts, write the record and the plot, and return 1 if F1 does not rise or the shift is accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/NAME and test/NAME")
    parser.add_argument("--dataset", required=True, help="NAME of the dataset, which the checkpoint has not seen")
    parser.add_argument("--checkpoint", default="nano", help="weights to start from")
    parser.add_argument("--settings", type=Path, help="JSON file of settings of the weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for projects and intermediate results")
    parser.add_argument("--counts", type=lambda text: [int(part) for part in text.split(",")], default=list(COUNTS))
    parser.add_argument("--shifted", type=int, default=11, help="images of the shifted project; 0 for none")
    parser.add_argument("--parts", default="all")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--fold-steps", type=int)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    bench = prepare(options)
    curve = [measure(bench, count) for count in sorted(options.counts)]
    shifted = measure(bench, options.shifted, SHIFT_PX) if options.shifted else None
    rises = curve[-1]["test"]["new_f1"] > curve[0]["test"]["old_f1"]
    passed = rises and (shifted is None or shifted["state"] == "rejected")
    settings = {
        "steps": options.steps,
        "fold_steps": options.fold_steps,
        "folds": options.folds,
        "parts": options.parts,
    }
    content = {"dataset": options.dataset, **settings, "curve": curve, "shifted": shifted, "passed": passed}
    path = write_record(options.out, "improve_curve", content)
    plot_curve(path.with_suffix(".png"), curve)
    _print(str(path))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
