"""Commands ``evaluate run``, ``baseline``, ``compare`` and ``prompts`` of ``cellsam-engine``."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.commands.console import errors, fail
from runtime.commands.groups import with_groups
from runtime.commands.options import FLAGS, ModelOptions, ThreadsOption
from runtime.commands.settings import backend_options, engine_directory, model_directory
from runtime.errors import InputError, SegmenterError
from training.evaluation.baseline import segment_classical
from training.evaluation.coco_metrics import require_library
from training.evaluation.compare import Column, comparison_markdown, make_column, write_comparison
from training.evaluation.dataset import Sample, find_samples, read_sample, select
from training.evaluation.environment import describe_environment, portable_command
from training.evaluation.evaluate import collect, evaluate, from_labels, from_segmentation, hold_out, score_samples
from training.evaluation.metrics import DEFAULT_IOUS, PRIMARY_IOU, shown_iou
from training.evaluation.plots import plot_bars, plot_curves, require_matplotlib
from training.evaluation.report import Report, markdown, read_report, write_report
from training.evaluation.summary import ImageScore
from training.evaluation.tuning import Tuned
from training.evaluation.tuning import tune as tune_baseline

evaluate_app = typer.Typer(
    name="evaluate",
    help="Score segmentations against true labels: JSON, a Markdown table and plots.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[Path, typer.Option(help="Images and true labels: a folder per dataset.", metavar="DIR")]
OutDir = Annotated[Path, typer.Option("--out", "-o", help="Directory for the results.", metavar="DIR")]
Ious = Annotated[list[float] | None, typer.Option("--iou", help="IoU of a match; default, 0.5 to 0.95 by 0.05.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Dataset or subset to take; default, all.")]
Split = Annotated[str, typer.Option(help="Part of a 'data build' output.")]


@evaluate_app.command()
@with_groups
def run(
    data: DataDir,
    out: OutDir,
    model: ModelOptions,
    name: Annotated[str, typer.Option(help="Name of the model in tables.")] = "CellSAM",
    threads: ThreadsOption = None,
    baseline: Annotated[Path | None, typer.Option(help="Report to show beside, from 'evaluate baseline'.")] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="Dataset the model was not trained on; scored apart, as zero-shot.")
    ] = None,
    iou: Ious = None,
    dataset: Datasets = None,
    split: Split = "test",
) -> None:
    """Score engines through Segmenter, with the settings of their manifest.

    An image that fails is listed with its error and enters no figure; the exit code is then 1.
    """
    from runtime.engines.manifest import read_manifest
    from runtime.segmenter import Segmenter

    with _errors_shown():
        _prepare(out)
        reference = None if baseline is None else read_report(baseline)
        samples = select(find_samples(data, split=split), dataset or ())
        select(samples, held_out or ())  # a name that does not occur is an error
        samples = hold_out(samples, held_out or ())
        # The contrast of built tiles is equalised already; doing it twice would change them.
        engine = model_directory(model.model)
        config = replace(read_manifest(engine).config, normalize=samples[0].tile_hw is None)
        options = backend_options(model, threads)
        segmenter = Segmenter(engine, backend=model.backend, config=config, options=options)
        about = {
            "manifest": asdict(segmenter.manifest),
            "config": asdict(segmenter.config),
            "options": asdict(options),
        }
        with _progress("segmenting", len(samples)) as step:
            evaluation = evaluate(
                lambda image: from_segmentation(segmenter(image)), samples, ious=_ious(iou), on_image=step
            )
        method = {"kind": "engines", "backend": segmenter.backend, **about, "held_out": list(held_out or ())}
        _finish(out, Report(name=name, evaluation=evaluation, method=method), reference)


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
    iou: Annotated[float, typer.Option(help="IoU of the F1 that is raised.")] = PRIMARY_IOU,
    threads: ThreadsOption = None,
    scale: Annotated[
        bool, typer.Option(help="Also choose the diameter at which cells are shown: whole images or tiles.")
    ] = False,
) -> None:
    """Choose a model's settings on images it was not trained on, by the mean F1 over the subsets."""
    from runtime.config import SegmentConfig
    from runtime.files.placing import write_whole
    from runtime.segmenter import Segmenter
    from training.evaluation.engine_tuning import VIEWS, tune_settings

    with _errors_shown():
        samples = select(find_samples(data, split=split), dataset or ())
        start = SegmentConfig(box_threshold_mode="fixed", normalize=samples[0].tile_hw is None)
        views = VIEWS if scale else ()
        segmenter = Segmenter(
            engine_directory(model.model), backend=model.backend, options=backend_options(model, threads)
        )
        with _progress("encoding", len(samples) * (1 + len(views))) as step:
            tuned = tune_settings(segmenter, samples, start, views=views, iou=iou, on_image=step)
        chosen = asdict(replace(tuned.config, normalize=True))
        write_whole(out, lambda temporary: temporary.write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8"))
        for subset, f1 in tuned.f1.items():
            typer.echo(f"{subset}\tF1 {f1:.3f}")
        typer.echo(f"{out}\t{tuned.tried} settings tried on {len(samples)} images")


@evaluate_app.command()
def baseline(
    train: Annotated[Path, typer.Option(help="Images to choose the parameters on.", metavar="DIR")],
    test: Annotated[Path, typer.Option(help="Images to score; nothing is chosen on them.", metavar="DIR")],
    out: OutDir,
    tune_images: Annotated[int, typer.Option(help="Most training images per subset.", min=1)] = 400,
    iou: Ious = None,
    dataset: Datasets = None,
) -> None:
    """Tune the classical segmenter on training images, subset by subset, and score it on test images."""
    with _errors_shown():
        _prepare(out)
        samples, training = select(find_samples(test), dataset or ()), find_samples(train)
        subsets = sorted({sample.subset for sample in samples})
        tuned = {subset: _tune(training, subset, tune_images) for subset in subsets}
        scored = []
        with _progress("scoring", len(samples)) as step:
            for subset, found in tuned.items():
                part = [sample for sample in samples if sample.subset == subset]
                scored += score_samples(_classical(found), part, ious=_ious(iou), on_image=step)
        method = {"kind": "classical", "subsets": {subset: _describe(found) for subset, found in tuned.items()}}
        report = Report(name="classical baseline", evaluation=collect(scored, _ious(iou)), method=method)
        _finish(out, report)


@evaluate_app.command()
def compare(
    reports: Annotated[
        list[str],
        typer.Argument(help="Reports, as FILE or NAME=FILE; a NAME may have several, of different images."),
    ],
    out: OutDir,
    iou: Annotated[float, typer.Option(help="IoU of the F1 shown.")] = PRIMARY_IOU,
) -> None:
    """Put evaluations side by side: specialists against a generalist, zero-shot against trained, a baseline."""
    with _errors_shown():
        _prepare(out)
        named: dict[str, list[Report]] = {}
        for text in reports:
            name, separator, file = text.rpartition("=")
            report = read_report(file)
            named.setdefault(name if separator else report.name, []).append(report)
        columns = [make_column(name, members, iou=iou) for name, members in named.items()]
        _write_comparison(out, columns, iou)


@evaluate_app.command()
def prompts(
    checkpoint: Annotated[Path, typer.Option(help="SAM ViT-B, CellSAM or our own.", metavar="FILE")],
    data: DataDir,
    out: OutDir,
    device: Annotated[str, typer.Option(help="PyTorch device: cpu or cuda.")] = "cpu",
    iou: Ious = None,
    dataset: Datasets = None,
    split: Split = "test",
) -> None:
    """Prompt SAM with true cells, their centres against their boxes (the paper's Fig. 2b)."""
    from training.checkpoint import CheckpointError, load_checkpoint
    from training.evaluation.prompts import KINDS, ModelInput, evaluate_prompts

    with _errors_shown():
        _prepare(out)
        samples = select(find_samples(data, split=split), dataset or ())
        try:
            loaded = load_checkpoint(checkpoint)
            model = loaded.model.to(device)
        except (CheckpointError, RuntimeError) as error:  # RuntimeError: no such device
            raise InputError(str(error)) from error
        spec = ModelInput(
            image_size=model.config.image_size,
            profile=loaded.default_profile,
            renormalize=loaded.renormalize,
        )
        with _progress("prompting", len(samples)) as step:
            evaluations = evaluate_prompts(model, spec, samples, ious=_ious(iou), on_image=step)
        about = {"kind": "prompts", "weights": loaded.source_format, "licence": loaded.licence, "input": asdict(spec)}
        found = [Report(name=k, evaluation=evaluations[k], method={**about, "prompt": k}) for k in KINDS]
        for report in found:
            write_report(out / f"{report.name}.json", _dated(report))
        shown = shown_iou(_ious(iou))
        _write_comparison(out, [make_column(report.name, [report], iou=shown) for report in found], shown)
        _fail_if_incomplete(found[0])


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS | {"iou": "--iou"})


def _prepare(out: Path) -> None:
    """Find out before hours of work what would stop the report after them."""
    require_library()
    require_matplotlib()
    out.mkdir(parents=True, exist_ok=True)


def _ious(given: list[float] | None) -> tuple[float, ...]:
    return tuple(sorted(set(given))) if given else DEFAULT_IOUS


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[Sample | ImageScore], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda item: progress.update(task, advance=1, description=f"{title} {item.dataset}/{item.id}")


def _classical(found: Tuned) -> Callable[[Any], Any]:
    return lambda image: from_labels(segment_classical(image, found.config))


def _tune(training: Sequence[Sample], subset: str, limit: int) -> Tuned:
    chosen = [sample for sample in training if sample.subset == subset]
    if not chosen:
        raise InputError(f"no training image belongs to {subset!r}; leave it out with --dataset, or add some.")
    # Neighbours in the listing are often tiles of one field.
    random.Random(0).shuffle(chosen)
    pairs = [read_sample(sample) for sample in chosen[:limit]]
    found = tune_baseline([image for image, _ in pairs], [truth for _, truth in pairs])
    errors.print(f"{subset}: F1 {found.counts.f1:.3f} on {found.images} training images", markup=False)
    return found


def _describe(found: Tuned) -> Mapping[str, Any]:
    train = {"images": found.images, "iou": found.iou, **asdict(found.counts), "f1": found.counts.f1}
    return {"config": asdict(found.config), "parameter_sets": found.tried, "train": train}


def _dated(report: Report) -> Report:
    return replace(report, command=portable_command(sys.argv), environment=describe_environment())


def _finish(out: Path, report: Report, reference: Report | None = None) -> None:
    """Write JSON, table and plots; print the table; exit with 1 if an image failed."""
    write_report(out / "evaluation.json", _dated(report))
    report = read_report(out / "evaluation.json")  # tables and plots show what the file holds
    iou = shown_iou(report.evaluation.ious)
    text = markdown(report, reference, iou=iou)
    (out / "evaluation.md").write_text(text, encoding="utf-8")
    columns = [make_column(r.name, [r], iou=iou) for r in (report, reference) if r is not None]
    plot_bars(out / "f1_bars.png", columns, iou=iou)
    plot_curves(out / "f1_against_iou.png", columns)
    typer.echo(text)
    _fail_if_incomplete(report)


def _write_comparison(out: Path, columns: Sequence[Column], iou: float) -> None:
    write_comparison(out / "comparison.json", columns, iou=iou, command=portable_command(sys.argv))
    text = comparison_markdown(columns, iou=iou)
    (out / "comparison.md").write_text(text, encoding="utf-8")
    plot_bars(out / "f1_bars.png", columns, iou=iou)
    plot_curves(out / "f1_against_iou.png", columns)
    typer.echo(text)


def _fail_if_incomplete(report: Report) -> None:
    failed = report.evaluation.failed
    if failed:
        lines = [f"  {image.dataset}/{image.id}: {image.error}" for image in failed]
        fail(InputError("\n".join([f"{len(failed)} of {len(report.evaluation.images)} images failed:", *lines])))
