"""Engine directories in which tests build plans."""

from __future__ import annotations

import shutil
from pathlib import Path

from export.plans.build import build_plans
from export.plans.builder import BuildOptions
from runtime.engines.backends.plan_record import PLANS, RTX_PLANS

FEW = BuildOptions(max_batch=2, max_boxes=16)


def copy_engines(source: Path, out: Path) -> Path:
    """Copy an engine directory, without plans, to a writable place."""
    return Path(shutil.copytree(source, out, ignore=shutil.ignore_patterns(PLANS, RTX_PLANS)))


def with_plans(source: Path, out: Path) -> Path:
    """Copy an engine directory, with plans for the simulated machine."""
    directory = copy_engines(source, out)
    build_plans(directory, FEW)
    return directory
