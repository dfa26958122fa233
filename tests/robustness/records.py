"""Damaged files that jobs keep between runs: the record of a folder, and a slide's ``job.json`` and tiles."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from benchmarks.made_slide import AS_MADE, MadeSlide, PerfectEngines
from runtime.jobs.folders.records import RECORD_NAME, Records, Settings
from runtime.jobs.folders.work import ImageDone
from runtime.jobs.slides import ArrayReader, RunOptions, SlideSettings, segment_slide
from runtime.jobs.slides.jobs import JOB_NAME, existing_job, request_of
from tests.robustness.base import Case, InputClass
from tests.robustness.mutations import edited, edits, replaced, replacements

SIZE = (90, 70)
TRUTH = MadeSlide(SIZE, pitch_px=20).truth(0, 0, *SIZE)
CUT = SlideSettings(tile_px=48, overlap_px=22, tiles_together=2)
SETTINGS = Settings(shared={"config": {"a": 1}}, slides={"tile_px": 9}, is_slide=lambda path, size_hw: size_hw[0] > 100)
ENDINGS = ("_labels.tif", "_cells.csv")


def changes() -> SearchStrategy[Case]:
    """Draw changes of one file of a job."""
    return st.fixed_dictionaries(
        {"file": st.integers(0, 99), "edits": st.just([]) | edits(3), "tree": st.just([]) | replacements()}
    )


def _check_records(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        targets = [(out / f"{name}.png", out / name) for name in "ab"]
        with Records(out, SETTINGS, ENDINGS) as records:
            for image, stem in targets:
                for path in (image, *(Path(f"{stem}{ending}") for ending in ENDINGS)):
                    path.write_bytes(b"1")
                records.begin((image, stem))
                records.finish(ImageDone(target=(image, stem), cells=3, size_hw=(9, 8)))
        path = out / RECORD_NAME
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        text = "".join(json.dumps(line) + "\n" for line in replaced(lines, case["tree"]) or [])
        path.write_bytes(edited(text.encode(), case["edits"]))
        with Records(out, SETTINGS, ENDINGS) as records:
            for target in targets:
                judged = records.judge(target, restart=False, overwrite=False)
                assert judged is None or judged.already or judged.failure is not None
                assert judged is None or not judged.already or judged.cells >= 0
                assert records.judge(target, restart=True, overwrite=True) is None
                records.begin(target)
                records.finish(ImageDone(target=target, cells=3, size_hw=(9, 8)))
        with Records(out, SETTINGS, ENDINGS) as records:
            for target in targets:
                judged = records.judge(target, restart=False, overwrite=False)
                assert judged is not None
                assert judged.already
                assert judged.cells == 3


@lru_cache(maxsize=1)
def _whole_job() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(keep_job=True)
        segment_slide(ArrayReader(TRUTH > 0), folder, engines=PerfectEngines(), settings=CUT, options=options)
        job = Path(folder) / "image_job"
        return {
            path.relative_to(job).as_posix(): path.read_bytes() for path in sorted(job.rglob("*")) if path.is_file()
        }


def _check_job(case: Case) -> None:
    """Check that a job with a damaged description or tile raises an error or equals the undamaged job."""
    files = {name: content for name, content in _whole_job().items() if name == JOB_NAME or name.startswith("tiles/")}
    name = JOB_NAME if case["tree"] else sorted(files)[case["file"] % len(files)]
    damaged = dict(files)
    if case["tree"]:
        damaged[name] = json.dumps(replaced(json.loads(files[name]), case["tree"])).encode()
    damaged[name] = edited(damaged[name], case["edits"])
    with tempfile.TemporaryDirectory() as folder:
        whole, hurt = Path(folder, "whole"), Path(folder, "hurt")
        for directory, content in ((whole, files), (hurt, damaged)):
            for path, data in content.items():
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (directory / path).write_bytes(data)
        request = request_of(ArrayReader(TRUTH > 0), PerfectEngines().identity(), AS_MADE, CUT)
        expected, found = existing_job(whole, request), existing_job(hurt, request)
        assert expected is not None
        assert found is not None
        assert found.layout == expected.layout, "an altered description must not be accepted"
        for place in range(len(expected.layout.grid)):
            mine, other = found.read_tile(place), expected.read_tile(place)
            assert mine.extent == other.extent
            for field in ("labels", "boxes", "scores", "iou_predictions"):
                np.testing.assert_array_equal(getattr(mine, field), getattr(other, field), strict=True)


CLASSES = (
    InputClass("folder records", changes, _check_records),
    InputClass("slide jobs", changes, _check_job),
)
