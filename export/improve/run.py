"""Improvement of a project's model: train on corrected images, export, verify, compare, decide.

With ten corrected images or more, a fifth is kept out of training, and the engine is promoted or rejected on it. With
fewer, up to five images are left out in turn: for each, a short training on the others is scored on it, then a longer
training on all images makes the engine, which is provisional at best. The score is thus that of shorter trainings. An
engine from a single image has no score on corrected images.

Every training starts from the first weights, not from the present engine, and takes all corrected images.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from export.exporter import export_engines
from export.finetune import FinetuneConfig, train_checkpoint, unverified_engines
from export.improve.config import ImproveConfig
from export.improve.decision import Pair, Verdict, decide
from export.improve.folds import Fold, few, make_folds
from export.improve.scoring import package_samples, score
from export.improve.work import Work, begin
from export.overall_progress import OverallProgress, Progress
from runtime.correction.engine_versions import (
    EngineHistory,
    EngineVersion,
    engines_folder,
    read_history,
    write_history,
)
from runtime.correction.project_file import read_project_file
from runtime.correction.project_lock import ProjectLock
from runtime.engines.builtin import BUILTIN_NAME, builtin_engine
from runtime.files.placing import remove_leftovers, write_whole
from training.evaluation.matching import Counts
from training.further import short_recipe
from training.weights import load_weights

TUNING, EXPORT, SCORING = 45.0, 15.0, 15.0
"""Work of choosing settings, of the export, and of scoring one engine, in units of training steps."""

FINAL = "final"
"""Name of the training that makes the engine."""


@dataclass(frozen=True, slots=True)
class Run:
    """One improvement at work."""

    config: ImproveConfig
    work: Work
    history: EngineHistory
    folds: tuple[Fold, ...]

    @property
    def trainings(self) -> dict[str, tuple[str, ...]]:
        """The images of each training; the last one makes the engine."""
        if not few(self.work.names):
            return {FINAL: self.folds[0].train}
        left_out = {f"fold{n}": fold.train for n, fold in enumerate(self.folds, start=1)}
        return {**left_out, FINAL: self.work.names}

    def steps(self, training: str) -> int:
        """Return the steps of a training."""
        names = self.work.names
        return self.config.steps_for(names) if training == FINAL else self.config.fold_steps_for(names)

    def amounts(self) -> dict[str, float]:
        """Return the work of each step, in units of training steps."""
        return {
            **{f"training {name}": self.steps(name) + TUNING for name in self.trainings},
            "export": EXPORT,
            "comparison": SCORING * (3 + len(self.folds)),
        }


def improve(config: ImproveConfig, progress: Progress = lambda what, done: None) -> EngineVersion:
    """Make a new engine from the corrected images of a project, and promote, offer or reject it.

    Args:
        config: the project and the weights.
        progress: see ``Progress``; the steps are ``training NAME``, ``export``, ``comparison`` and ``done``.

    Returns:
        The version. If one was made from the same inputs before, nothing is done and that is returned.

    Raises:
        InputError: no image is done.
        ProjectError: the directory is not a project, or another process improves it.
        VerificationError: an engine differs from PyTorch.
    """
    read_project_file(config.project)
    engines_folder(config.project).mkdir(exist_ok=True)
    lock = ProjectLock(engines_folder(config.project))
    try:
        remove_leftovers(engines_folder(config.project))
        history = read_history(config.project)
        inputs = {**config.inputs(), "init": load_weights(config.init).sha256}
        work = begin(config.project, inputs, history.current)
        found = next((one for one in history.versions if one.request == work.request), None)
        if found is None:
            seen = () if history.current is None else history.version(history.current).images
            run = Run(config, work, history, make_folds(work.names, seen=seen, most=config.folds))
            overall = OverallProgress(progress, run.amounts())
            _train(run, overall)
            engines = _export(run, overall.of("export"))
            found = _publish(run, engines, _compare(run, engines, overall.of("comparison")))
        work.remove()
        progress("done", 1.0)
        return found
    finally:
        lock.release()


def _train(run: Run, overall: OverallProgress) -> None:
    for name, images in run.trainings.items():
        advance = overall.of(f"training {name}")
        train_checkpoint(_finetune_config(run, name, images), lambda _, done, advance=advance: advance(done))  # type: ignore[misc]


def _finetune_config(run: Run, name: str, images: tuple[str, ...]) -> FinetuneConfig:
    config, directory = run.config, run.work.directory / name
    folder = run.work.folder_of(name, images)
    recipe = directory / "recipe.json"
    if config.recipe is None and not recipe.is_file():
        loaded = load_weights(config.init)
        made = short_recipe(loaded.model.config, loaded.usage.settings, steps=run.steps(name), parts=config.parts)
        write_whole(recipe, lambda path: path.write_text(made.to_json(), encoding="utf-8"))
    return FinetuneConfig(
        images=folder,
        out=run.work.directory / "engines",
        work=directory,
        init=config.init,
        steps=run.steps(name),
        recipe=config.recipe or recipe,
        accelerator=config.accelerator,
        backend=config.backend,
        tuned_on="train",
    )


def _export(run: Run, advance: Callable[[float], None]) -> Path:
    """Export and verify the engines, unless that is done."""
    advance(0.0)
    engines = run.work.directory / "engines"
    if not engines.is_dir():
        export_engines(run.work.directory / FINAL / "checkpoint.pt", engines)
    return engines


def _compare(run: Run, engines: Path, advance: Callable[[float], None]) -> Verdict:
    """Score the old and the new engine on images that were kept out, and on the sample set."""
    work, config = run.work, run.config
    old, scores, total = _old_engines(run), work.directory / "scores", 3 + len(run.folds)
    done = iter(range(total))

    def counts(directory: Path, name: str, images: tuple[str, ...] | None) -> tuple[Counts, ...]:
        start = next(done)
        samples = package_samples() if images is None else work.samples(images)
        tell = lambda share: advance((start + share) / total)  # noqa: E731
        return score(directory, samples, scores / f"{name}.json", backend=config.backend, advance=tell)

    samples = Pair(counts(old, "old_samples", None), counts(engines, "new_samples", None))
    corrected = None
    if run.folds:
        kept = tuple(name for fold in run.folds for name in fold.held_out)
        new: list[Counts] = []
        for n, fold in enumerate(run.folds, start=1):
            trained = engines if not few(work.names) else _engines_of(work.directory / f"fold{n}")
            new += counts(trained, f"new_corrected{n}", fold.held_out)
        corrected = Pair(counts(old, "old_corrected", kept), tuple(new))
    return decide(corrected, samples, few=few(work.names))


def _engines_of(training: Path) -> Path:
    return unverified_engines(load_weights(training / "checkpoint.pt"), training / "engines")


def _old_engines(run: Run) -> Path:
    if run.history.current is not None:
        return engines_folder(run.config.project) / run.history.current
    if run.config.init == BUILTIN_NAME:
        return builtin_engine()
    return unverified_engines(load_weights(run.config.init), run.work.directory / "old_engines")


def _publish(run: Run, engines: Path, verdict: Verdict) -> EngineVersion:
    """Copy the engines to their place, and write the history; rejected ones stay for inspection."""
    history, project = run.history, run.config.project
    first = BUILTIN_NAME if run.config.init == BUILTIN_NAME else Path(run.config.init).name
    version = EngineVersion(
        version=history.next_name(),
        state=verdict.state,
        made_from=first,
        compared_with=history.current or first,
        request=run.work.request,
        images=run.trainings[FINAL],
        held_out=tuple(name for fold in run.folds for name in fold.held_out),
        scores=verdict.scores(),
        reasons=verdict.reasons,
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    target = engines_folder(project) / version.version
    if target.exists():  # a run was killed before it could write the history
        shutil.rmtree(target)
    checkpoint = run.work.directory / FINAL / "checkpoint.pt"
    write_whole(target.with_suffix(".pt"), lambda path: shutil.copyfile(checkpoint, path))
    write_whole(target, lambda path: shutil.copytree(engines, path))
    write_history(project, history.with_version(version))
    return version
