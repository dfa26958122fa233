"""Scores of an engine directory on labelled images, kept in the work folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.engines.backends.base import BackendName
from runtime.engines.builtin import sample_images
from runtime.engines.manifest import read_manifest
from runtime.errors import InputError
from runtime.files.placing import write_whole
from runtime.segmenter import Segmenter
from training.evaluation.dataset import Sample
from training.evaluation.environment import describe_environment
from training.evaluation.evaluate import evaluate, from_segmentation
from training.evaluation.matching import Counts
from training.evaluation.metrics import PRIMARY_IOU
from training.evaluation.report import Report, read_report, write_report

SAMPLES = "samples"


def package_samples() -> list[Sample]:
    """Return the sample images of the package with their published labels: the sample set of the built-in model."""
    return [
        Sample(
            id=path.name.removesuffix("_img.png"),
            dataset=SAMPLES,
            subset=SAMPLES,
            group=SAMPLES,
            image_path=path,
            labels_path=path.with_name(path.name.replace("_img.png", "_mask.png")),
        )
        for path in sample_images()
    ]


def score(
    engines: Path,
    samples: Sequence[Sample],
    record: Path,
    *,
    backend: BackendName,
    advance: Callable[[float], None] = lambda done: None,
) -> tuple[Counts, ...]:
    """Segment and score images with the settings of the engines' manifest.

    Args:
        engines: the engine directory.
        samples: images with true labels.
        record: JSON file of the report. If it exists, it is read instead.
        backend: backend that runs the engines.
        advance: called with the completed share.

    Returns:
        Counts of each image at the IoU that settings are chosen by, in the order of ``samples``.

    Raises:
        InputError: an image could not be segmented.
    """
    if not record.is_file():
        done = iter(range(1, len(samples) + 1))
        with Segmenter(engines, backend=backend) as segmenter:
            found = evaluate(
                lambda image: from_segmentation(segmenter(image)),
                samples,
                on_image=lambda _: advance(next(done) / len(samples)),
            )
            method = {"kind": "engines", "backend": segmenter.backend, "weights": read_manifest(engines).weights}
        report = Report(name=record.stem, evaluation=found, method=method, environment=describe_environment())
        record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, lambda path: write_report(path, report))
    evaluation = read_report(record).evaluation
    if evaluation.failed:
        failed = evaluation.failed[0]
        record.unlink()
        raise InputError(
            f"{failed.id} cannot be scored: {failed.error} Correct or remove the image.", kind="unreadable"
        )
    return tuple(image.counts(PRIMARY_IOU) for image in evaluation.images)
