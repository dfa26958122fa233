"""Conversion of command line options to settings of the library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.commands.options import MachineOptions, ModelOptions, ReadingOptions, SegmentOptions, SlideOptions
from runtime.config import SegmentConfig, with_overrides
from runtime.engines.backends.base import BackendOptions
from runtime.engines.builtin import BUILTIN_NAME, builtin_engine
from runtime.jobs.cluster import ClusterOptions

if TYPE_CHECKING:
    from runtime.files.image_results import FileOptions
    from runtime.jobs.segmenter_spec import SegmenterSpec
    from runtime.jobs.slides.settings import SlideSettings


def engine_directory(model: str) -> Path | None:
    """Return the engine directory given as ``--model``; None for the built-in model."""
    return None if model == BUILTIN_NAME else Path(model)


def model_directory(model: str) -> Path:
    """Return the engine directory given as ``--model``, or that of the built-in model."""
    return engine_directory(model) or builtin_engine()


def backend_options(model: ModelOptions, threads: int | None) -> BackendOptions:
    """Build the options with which the backend runs the engines."""
    return BackendOptions(
        threads=threads,
        cpu_precision=model.cpu_precision,
        cuda_graphs=model.cuda_graphs,
        gpu_kernels=model.gpu_kernels,
    )


def segmenter_spec(model: ModelOptions, machine: MachineOptions) -> SegmenterSpec:
    """Specify the engines that every process of a job loads. Each process of a cluster resolves ``auto`` by itself.

    Raises:
        BackendError, EngineError: as ``resolve_backend``.
    """
    from runtime.jobs.segmenter_spec import SegmenterSpec

    directory = engine_directory(model.model)
    if directory is not None and ClusterOptions(cluster=machine.cluster).remote:
        directory = Path(os.path.abspath(directory))
    spec = SegmenterSpec(engine_dir=directory, backend=model.backend, options=backend_options(model, machine.threads))
    return spec.here() if machine.cluster is None else spec


def segment_config(defaults: SegmentConfig, *groups: Any) -> SegmentConfig:
    """Override the model's settings by the segmentation settings among the given options.

    Raises:
        ConfigError: a setting is outside its range.
    """
    known = {field.name for field in fields(SegmentConfig)}
    given = {name: value for group in groups for name, value in _values(group) if name in known}
    if "invert" in given:
        given["invert"] = {"yes": True, "no": False}.get(given["invert"], given["invert"])
    return with_overrides(defaults, given)


def slide_settings(slides: SlideOptions, files: FileOptions) -> SlideSettings:
    """Build the settings for tiling slides and writing their results.

    Raises:
        ConfigError: a setting is outside its range.
    """
    from runtime.jobs.slides.settings import SlideSettings

    known = {field.name for field in fields(SlideSettings)}
    given = {name: value for name, value in _values(slides) if name in known and value is not None}
    return SlideSettings(**given, formats=files.formats, overlay=files.overlay, measure=files.measure)


def reading_options(read: ReadingOptions, pixel_size_um: float | None) -> FileOptions:
    """Build the options for reading images.

    Raises:
        ConfigError: as ``FileOptions``.
    """
    from runtime.files.formats import Plane
    from runtime.files.image_results import FileOptions

    pages_are_channels = read.nuclear is not None or read.membrane is not None
    return FileOptions(
        series=read.series,
        plane=Plane(time=read.time, z=read.z, pages_are_channels=pages_are_channels),
        nuclear=read.nuclear,
        membrane=read.membrane,
        rgb=read.rgb,
        strict=read.strict,
        planes=read.planes,
        unlinked=read.unlinked,
        pixel_size_um=pixel_size_um,
    )


def file_options(given: SegmentOptions) -> FileOptions:
    """Build the options for reading images and writing results.

    Raises:
        ConfigError: as ``FileOptions`` and ``parse_formats``.
    """
    from runtime.files.outputs.formats import parse_formats

    output, slides = given.output, given.slides
    return replace(
        reading_options(given.read, given.scale.pixel_size_um),
        formats=parse_formats(output.formats or ()),
        overlay=output.overlay,
        measure=output.measure,
        largest_px=0 if slides.as_slide else int(slides.slide_over * 1e6),
    )


def _values(group: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(group, field.name)) for field in fields(group))
