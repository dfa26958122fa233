"""Commands ``evaluate run``, ``labels``, ``no-cells``, ``tune``, ``baseline``, ``compare`` and ``prompts``."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.commands.console import errors
from runtime.commands.groups import with_groups
from runtime.commands.options import ModelOptions, ThreadsOption
from runtime.commands.settings import backend_options, engine_directory, model_directory
from runtime.errors import InputError
from training.commands.evaluate_labels import labels_command, no_cells_command
from training.commands.reports import (
    DataDir,
    DataDirs,
    Datasets,
    HeldOut,
    Ious,
    OutDir,
    Reference,
    Split,
    chosen_ious,
    dated,
    errors_shown,
    fail_if_incomplete,
    finish,
    prepare,
    sample_progress,
    samples_of,
    write_columns,
)
from training.evaluation.baseline import segment_classical
from training.evaluation.compare import make_column
from training.evaluation.dataset import Sample, find_samples, read_sample, select
from training.evaluation.evaluate import collect, evaluate, from_labels, from_segmentation, score_samples
from training.evaluation.metrics import PRIMARY_IOU, shown_iou
from training.evaluation.report import Report, read_report, write_report
from training.evaluation.tuning import Tuned
from training.evaluation.tuning import tune as tune_baseline

evaluate_app = typer.Typer(
    name="evaluate",
    help="Score segmentations against true labels: JSON, a Markdown table and plots.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

evaluate_app.command("labels")(labels_command)
evaluate_app.command("no-cells")(no_cells_command)


@evaluate_app.command()
@with_groups
def run(
    data: DataDirs,
    out: OutDir,
    model: ModelOptions,
    name: Annotated[str, typer.Option(help="Name of the model in tables.")] = "CellSAM",
    threads: ThreadsOption = None,
    baseline: Reference = None,
    held_out: HeldOut = None,
    iou: Ious = None,
    dataset: Datasets = None,
    split: Split = "test",
) -> None:
    """Score engines through Segmenter, with the settings of their manifest.

    An image that fails is listed with its error and excluded from the figures; the exit code is then 1.
    """
    from runtime.engines.manifest import read_manifest
    from runtime.segmenter import Segmenter

    with errors_shown():
        prepare(out)
        reference = None if baseline is None else read_report(baseline)
        samples = samples_of(data, split, dataset or (), held_out or ())
        # The contrast of built tiles is already equalised; doing it again would change them.
        engine = model_directory(model.model)
        config = replace(read_manifest(engine).config, normalize=samples[0].tile_hw is None)
        options = backend_options(model, threads)
        segmenter = Segmenter(engine, backend=model.backend, config=config, options=options)
        about = {
            "manifest": asdict(segmenter.manifest),
            "config": asdict(segmenter.config),
            "options": asdict(options),
        }
        with sample_progress("segmenting", len(samples)) as step:
            evaluation = evaluate(
                lambda image: from_segmentation(segmenter(image)), samples, ious=chosen_ious(iou), on_image=step
            )
        method = {"kind": "engines", "backend": segmenter.backend, **about, "held_out": list(held_out or ())}
        finish(out, Report(name=name, evaluation=evaluation, method=method), reference)


@evaluate_app.command()
@with_groups
def tune(
    data: DataDir,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="JSON file of settings to write, for 'export --settings'.", metavar="FILE"),
    ],
    model: ModelOptions,
    dataset: Datasets = None,
    split: Split = "val",
    iou: Annotated[float, typer.Option(help="IoU of the F1 to maximise.")] = PRIMARY_IOU,
    threads: ThreadsOption = None,
    scale: Annotated[
        bool, typer.Option(help="Also choose the diameter at which cells are shown: whole images or tiles.")
    ] = False,
) -> None:
    """Choose a model's settings on images that it was not trained on, by the mean F1 over the subsets.

    The search starts from the settings of the model and keeps only changes that raise the F1.
    """
    from runtime.files.placing import write_whole
    from runtime.segmenter import Segmenter
    from training.evaluation.engine_tuning import VIEWS, tune_settings

    with errors_shown():
        samples = select(find_samples(data, split=split), dataset or ())
        views = VIEWS if scale else ()
        segmenter = Segmenter(
            engine_directory(model.model), backend=model.backend, options=backend_options(model, threads)
        )
        own = segmenter.config
        # Built tiles are already equalised and inverted.
        start = own if samples[0].tile_hw is None else own.of_views
        with sample_progress("encoding", len(samples) * (1 + len(views))) as step:
            tuned = tune_settings(segmenter, samples, start, views=views, iou=iou, on_image=step)
        chosen = asdict(replace(tuned.config, normalize=own.normalize, invert=own.invert))
        write_whole(out, lambda temporary: temporary.write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8"))
        for subset, f1 in tuned.f1.items():
            typer.echo(f"{subset}\tF1 {f1:.3f}")
        typer.echo(f"{out}\t{tuned.tried} settings tried on {len(samples)} images")


@evaluate_app.command()
def baseline(
    train: Annotated[Path, typer.Option(help="Images to choose the parameters on.", metavar="DIR")],
    test: Annotated[Path, typer.Option(help="Images to score; they are not used for tuning.", metavar="DIR")],
    out: OutDir,
    tune_images: Annotated[int, typer.Option(help="Largest number of training images per subset.", min=1)] = 400,
    iou: Ious = None,
    dataset: Datasets = None,
) -> None:
    """Tune the classical segmenter on training images, subset by subset, and score it on test images."""
    with errors_shown():
        prepare(out)
        samples, training = select(find_samples(test), dataset or ()), find_samples(train)
        subsets = sorted({sample.subset for sample in samples})
        tuned = {subset: _tune(training, subset, tune_images) for subset in subsets}
        scored = []
        with sample_progress("scoring", len(samples)) as step:
            for subset, found in tuned.items():
                part = [sample for sample in samples if sample.subset == subset]
                scored += score_samples(_classical(found), part, ious=chosen_ious(iou), on_image=step)
        method = {"kind": "classical", "subsets": {subset: _describe(found) for subset, found in tuned.items()}}
        report = Report(name="classical baseline", evaluation=collect(scored, chosen_ious(iou)), method=method)
        finish(out, report)


@evaluate_app.command()
def compare(
    reports: Annotated[
        list[str],
        typer.Argument(help="Reports, as FILE or NAME=FILE; a NAME may have several with different images."),
    ],
    out: OutDir,
    iou: Annotated[float, typer.Option(help="IoU of the F1 to show.")] = PRIMARY_IOU,
) -> None:
    """Compare evaluations: specialists and a generalist, zero-shot and trained, a baseline."""
    with errors_shown():
        prepare(out)
        named: dict[str, list[Report]] = {}
        for text in reports:
            name, separator, file = text.rpartition("=")
            report = read_report(file)
            named.setdefault(name if separator else report.name, []).append(report)
        columns = [make_column(name, members, iou=iou) for name, members in named.items()]
        write_columns(out, columns, iou)


@evaluate_app.command()
def prompts(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint: SAM ViT-B, CellSAM or our own.", metavar="FILE")],
    data: DataDir,
    out: OutDir,
    device: Annotated[str, typer.Option(help="PyTorch device: cpu or cuda.")] = "cpu",
    iou: Ious = None,
    dataset: Datasets = None,
    split: Split = "test",
) -> None:
    """Score SAM with prompts from true cells: their centres and their boxes (the paper's Fig. 2b)."""
    from training.checkpoint import CheckpointError, load_checkpoint
    from training.evaluation.prompts import KINDS, ModelInput, evaluate_prompts

    with errors_shown():
        prepare(out)
        samples = select(find_samples(data, split=split), dataset or ())
        try:
            loaded = load_checkpoint(checkpoint)
            model = loaded.model.to(device)
        except (CheckpointError, RuntimeError) as error:  # RuntimeError: the device does not exist
            raise InputError(str(error)) from error
        spec = ModelInput(
            image_size=model.config.image_size,
            profile=loaded.default_profile,
            renormalize=loaded.renormalize,
        )
        with sample_progress("prompting", len(samples)) as step:
            evaluations = evaluate_prompts(model, spec, samples, ious=chosen_ious(iou), on_image=step)
        about = {"kind": "prompts", "weights": loaded.source_format, "licence": loaded.licence, "input": asdict(spec)}
        found = [Report(name=k, evaluation=evaluations[k], method={**about, "prompt": k}) for k in KINDS]
        for report in found:
            write_report(out / f"{report.name}.json", dated(report))
        shown = shown_iou(chosen_ious(iou))
        write_columns(out, [make_column(report.name, [report], iou=shown) for report in found], shown)
        fail_if_incomplete(found[0])


def _classical(found: Tuned) -> Callable[[Any], Any]:
    return lambda image: from_labels(segment_classical(image, found.config))


def _tune(training: Sequence[Sample], subset: str, limit: int) -> Tuned:
    chosen = [sample for sample in training if sample.subset == subset]
    if not chosen:
        raise InputError(
            f"no training image belongs to {subset!r}; expected at least one. Exclude it with --dataset, or add some."
        )
    # Consecutive samples are often tiles of one field.
    random.Random(0).shuffle(chosen)
    pairs = [read_sample(sample) for sample in chosen[:limit]]
    found = tune_baseline([image for image, _ in pairs], [truth for _, truth in pairs])
    errors.print(f"{subset}: F1 {found.counts.f1:.3f} on {found.images} training images", markup=False)
    return found


def _describe(found: Tuned) -> Mapping[str, Any]:
    train = {"images": found.images, "iou": found.iou, **asdict(found.counts), "f1": found.counts.f1}
    return {"config": asdict(found.config), "parameter_sets": found.tried, "train": train}
