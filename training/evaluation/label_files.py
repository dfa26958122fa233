"""Label maps of other tools, and the samples to which they belong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from runtime.errors import InputError
from training.data.builders.reading import read_label_file
from training.evaluation.dataset import Sample
from training.evaluation.evaluate import Prediction, Scored, from_labels, score_samples
from training.evaluation.metrics import DEFAULT_IOUS
from training.evaluation.summary import ImageScore

ENDINGS = ("_cp_masks", ".stardist", "_labels", "_label", "_masks", "_mask", "")
"""Endings of the names of label maps, in order of preference: Cellpose; StarDist (``stardist-predict2d``); this
project's ``segment``; plain names. A file named like the image comes last, because it may be a copy of the image."""


SUFFIXES = (".npy", ".png", ".tif", ".tiff")
"""File types that store integers exactly."""


def find_label_files(directory: Path, samples: Sequence[Sample]) -> dict[Sample, Path]:
    """Find the label map of every sample.

    The name of the file is ``<name><ending>`` with the suffix of a TIFF, PNG or npy file; ``<name>`` is the sample's id
    or the file name of its image without suffix. The file may be anywhere below the directory. If several fit, the one
    in a folder with the dataset's name is chosen. Images and true labels of the samples are never chosen.

    Args:
        directory: output directory of the tool.
        samples: output of ``dataset.find_samples``.

    Returns:
        The file of each sample that has one.

    Raises:
        InputError: the directory does not exist, no sample has a label map, a sample has several, or several samples
            share one.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; expected one with label maps.", kind="not_found")
    own = {path.resolve() for sample in samples for path in (sample.image_path, sample.labels_path)}
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(directory.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.resolve() not in own:
            by_stem[path.stem.removesuffix(".ome")].append(path)
    candidates = {sample: _label_file(sample, by_stem) for sample in samples}
    found = {sample: path for sample, path in candidates.items() if path is not None}
    if not found:
        raise InputError(
            f"{directory} contains no label map of the {len(samples)} images; expected names such as "
            f"{_expected(samples[0])}.",
            kind="not_found",
        )
    taken: dict[Path, Sample] = {}
    for sample, path in found.items():
        other = taken.setdefault(path, sample)
        if other is not sample:
            raise InputError(
                f"{path} could be the label map of {other.dataset}/{other.id} and of {sample.dataset}/{sample.id}; "
                "put the label maps of each dataset into a folder with its name.",
                kind="conflict",
            )
    return found


def score_label_files(
    files: Mapping[Sample, Path],
    samples: Iterable[Sample],
    *,
    ious: Sequence[float] = DEFAULT_IOUS,
    on_image: Callable[[ImageScore], None] = lambda score: None,
) -> list[Scored]:
    """Score label maps as ``evaluate.score_samples`` does; a sample without a file counts as failed.

    Args:
        files: output of ``find_label_files``.
        samples: all samples to score.
        ious: thresholds in (0, 1].
        on_image: called after each image, for progress.
    """
    scored: list[Scored] = []
    for sample in samples:
        scored += score_samples(
            lambda _, sample=sample: _prediction(sample, files),  # type: ignore[misc]
            [sample],
            ious=ious,
            timed=False,
            on_image=on_image,
        )
    return scored


def _prediction(sample: Sample, files: Mapping[Sample, Path]) -> Prediction:
    if sample not in files:
        raise InputError(f"has no label map; expected a file such as {_expected(sample)}.", kind="not_found")
    return from_labels(read_label_file(files[sample]))


def _label_file(sample: Sample, by_stem: Mapping[str, Sequence[Path]]) -> Path | None:
    names = dict.fromkeys((sample.image_path.stem, sample.id))
    for ending in ENDINGS:
        candidates = [path for name in names for path in by_stem.get(f"{name}{ending}", ())]
        if len(candidates) > 1:
            candidates = [path for path in candidates if sample.dataset in path.parts] or candidates
        if len(candidates) > 1:
            raise InputError(
                f"{candidates[0]} and {candidates[1]} could both be the label map of {sample.dataset}/{sample.id}; "
                "keep one of them.",
                kind="conflict",
            )
        if candidates:
            return candidates[0]
    return None


def _expected(sample: Sample) -> str:
    return f"{sample.image_path.stem}_cp_masks.tif or {sample.id}_labels.tif"
