"""The command ``cellsam-cellpose``: Cellpose's command line, on these engines.

Programs that call Cellpose, and what they read:

- QuPath, BIOP/qupath-extension-cellpose ``Cellpose2D.java``: ``--dir D --pretrained_model M ... --save_tif --no_npy
  --use_gpu --verbose``; reads ``NAME_cp_masks.tif``.
- TrackMate, trackmate-sc/TrackMate-Cellpose ``AbstractCellposeSettings.java``: ``--dir D --chan N --chan2 N --diameter
  PX --pretrained_model M --save_png --no_npy``; reads ``NAME_cp_masks.png``, and percentages in
  ``~/.cellpose/run.log``.
- nf-core/modules ``modules/nf-core/cellpose/main.nf``: ``--image_path I --save_tif``; the version is the third word of
  the second line of ``--version``.

Exit codes: 0 done, 1 an image failed, 2 wrong usage, 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from runtime.cellpose.arguments import parse, without_effect
from runtime.cellpose.images import Saving, images_of, read_channels
from runtime.cellpose.settings import EvalSettings, find_engines
from runtime.errors import RECOVERABLE_ERRORS, ConfigError, InputError, SegmenterError, reason_of
from runtime.jobs.segmenter_spec import loaded_segmenter
from runtime.results import Segmentation

_log = logging.getLogger("cellpose")


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment images as the options of Cellpose's command ask.

    Args:
        arguments: the options; default, those of the process.

    Returns:
        The exit code.
    """
    given = parse(arguments)
    if given.version:
        sys.stdout.write(_version_lines())
        return 0
    _log_to(given)
    try:
        return _segment(given)
    except (SegmenterError, OSError) as error:
        _log.error("%s", reason_of(error))
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _segment(given: argparse.Namespace) -> int:
    start = time.perf_counter()
    if given.savedir and not Path(given.savedir).is_dir():
        raise InputError(f"--savedir {given.savedir} does not exist; expected a folder. Create it.", kind="not_found")
    if given.dir:
        folder = Path(given.dir)
        images = images_of(folder, given.mask_filter, given.img_filter, below=given.look_one_level_down)
    else:
        images = [Path(given.image_path)]
    spec = find_engines(given.pretrained_model, gpu=given.use_gpu, device=_device(given))
    segmenter = loaded_segmenter(spec)
    _log.info(">>>> running %s on %d images, backend %s", spec.directory.name, len(images), segmenter.backend)
    settings = EvalSettings(
        diameter=given.diameter,
        cellprob_threshold=given.cellprob_threshold,
        min_size=given.min_size,
        invert=given.invert,
    )
    config, saving, failed = settings.config(segmenter.config), Saving(given), 0
    _log.info("%s", _progress(0, len(images), start))
    for number, path in enumerate(images, start=1):
        try:
            image = read_channels(path, (given.chan, given.chan2))
            result = segmenter(image.pixels, config=config.at_pixel_size(image.pixel_size_um, str(path)))
            saving.save(without_edges(result) if given.exclude_on_edges else result, image)
        except RECOVERABLE_ERRORS as error:  # the other images are still segmented
            failed += 1
            _log.error("%s: %s", path, reason_of(error, path))
        _log.info("%s", _progress(number, len(images), start))
    _log.info(">>>> completed in %0.3f sec", time.perf_counter() - start)
    return 1 if failed else 0


def without_edges(result: Segmentation) -> Segmentation:
    """Drop the cells that touch an edge of the image."""
    labels = result.labels
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    keep = np.ones(len(result), np.bool_)
    keep[touching[touching > 0] - 1] = False
    return result[np.flatnonzero(keep)]


def _device(given: argparse.Namespace) -> int:
    if not given.use_gpu:
        return 0
    if given.gpu_device.isdecimal():
        return int(given.gpu_device)
    raise ConfigError(f"--gpu_device is {given.gpu_device}; expected the number of an NVIDIA GPU, from 0.")


def _progress(done: int, count: int, start: float) -> str:
    """Format progress as tqdm does, from which hosts take the percentage."""
    share, seconds = done / count, int(time.perf_counter() - start)
    bar = ("#" * round(10 * share)).ljust(10)
    return f"{100 * share:3.0f}%|{bar}| {done}/{count} [{seconds // 60:02d}:{seconds % 60:02d}]"


def _log_to(given: argparse.Namespace) -> None:
    """Send warnings to stderr; with ``--verbose``, everything to stdout and to the log that TrackMate reads."""
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.WARNING)
    errors.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handlers: list[logging.Handler] = [errors]
    if given.verbose:
        log = Path.home() / ".cellpose" / "run.log"
        spoken = logging.StreamHandler(sys.stdout)
        spoken.addFilter(lambda record: record.levelno < logging.WARNING)
        handlers.append(spoken)
        try:
            log.parent.mkdir(exist_ok=True)
            handlers.append(logging.FileHandler(log, mode="w", encoding="utf-8"))
        except OSError as error:
            sys.stderr.write(f"WARNING: {log} cannot be written ({error.strerror}); progress is only printed\n")
        for handler in handlers[1:]:
            handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING, handlers=handlers, force=True)
    _log.info("cellsam-engine %s", version("cellsam-engine"))
    if idle := without_effect(given):
        _log.warning("no effect here: %s", ", ".join(idle))


def _version_lines() -> str:
    return (
        f"\ncellsam-engine version: \t{version('cellsam-engine')}\nplatform:       \t{sys.platform}\n"
        f"python version: \t{platform.python_version()}\n"
    )


def script() -> None:
    """Run ``main`` and end the process; the console script calls this function."""
    sys.exit(main())


if __name__ == "__main__":
    script()
