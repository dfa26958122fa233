"""The unit of work of a job on stacks and movies: all planes of a file, with one result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from runtime.errors import RECOVERABLE_ERRORS
from runtime.files.formats.stack import StackAxis, find_stack, parse_planes
from runtime.files.image_results import FileOptions, measure_file, read_file
from runtime.files.outputs.formats import output_path
from runtime.files.outputs.stacks import STACK_WRITERS, StackOutput
from runtime.files.placing import move_into_place, staged
from runtime.jobs.folders.work import ImageDone, ImageWork, Target, failed_by
from runtime.jobs.segmenter_spec import loaded_segmenter
from runtime.jobs.step import at_work_on
from runtime.jobs.tracking import Tracks, link_frames
from runtime.ops.link_planes import link_planes
from runtime.results import Segmentation


@dataclass(frozen=True, kw_only=True, slots=True)
class StackWork(ImageWork):
    """Everything that a process needs to segment stacks, picklable. ``files.planes`` chooses the planes."""

    def run_together(
        self, targets: Sequence[Target], *, large: Callable[[Target, tuple[int, int], bool], None] | None = None
    ) -> list[ImageDone]:
        """Segment stacks one after the other and write their results; a failure affects one of them."""
        return [self._run_stack(target) for target in targets]

    def _run_stack(self, target: Target) -> ImageDone:
        start = time.perf_counter()
        try:
            with at_work_on([target[0]]):
                output = self._segment_stack(target)
            self._write(target, output)
        except RECOVERABLE_ERRORS as error:
            return failed_by(target, error)
        height, width = output.results[0].labels.shape
        return ImageDone(
            target=target,
            cells=max((int(numbers.max(initial=0)) for numbers in output.numbers), default=0),
            size_hw=(height, width),
            seconds=time.perf_counter() - start,
            appearance=output.results[0].appearance,
            provenance=output.provenance,
        )

    def _segment_stack(self, target: Target) -> StackOutput:
        path, files = target[0], self.files
        axis = find_stack(path, files.series, files.plane)
        planes = parse_planes(files.planes or "", axis.length)
        first = read_file(path, self._files_at(axis, planes[0]))
        config = self.config.at_pixel_size(first.pixel_size_um, str(path))
        segmenter = loaded_segmenter(self.engines)
        together = self.engines.resolved().images_per_call
        readers: Iterator[Callable[[], NDArray[np.generic]]] = (
            partial(self._pixels, target, axis, number) for number in planes
        )
        results = list(segmenter.stream(readers, config=config, workers=1, images_together=together))
        linked = self._link(results, axis)
        measured = [
            measure_file(result.labels, path, self._files_at(axis, number))
            for number, result in zip(planes, results, strict=True)
            if files.measure
        ]
        return StackOutput(
            results=results,
            numbers=linked.numbers,
            planes=planes,
            axis=axis,
            parents=linked.parents,
            pixel_size_um=first.pixel_size_um,
            measured=measured,
            image=path,
        )

    def _files_at(self, axis: StackAxis, number: int) -> FileOptions:
        return replace(self.files, plane=axis.at(number))

    def _pixels(self, target: Target, axis: StackAxis, number: int) -> NDArray[np.generic]:
        return read_file(target[0], self._files_at(axis, number)).pixels

    def _link(self, results: Sequence[Segmentation], axis: StackAxis) -> Tracks:
        if self.files.unlinked:
            before = accumulate((len(result) for result in results[:-1]), initial=0)
            return Tracks(
                [np.arange(1, len(r) + 1, dtype=np.int32) + n for r, n in zip(results, before, strict=True)], {}
            )
        if axis.letter == "T":
            return link_frames(results)
        return Tracks(link_planes([result.labels for result in results]), {})

    def _write(self, target: Target, output: StackOutput) -> None:
        """Write all results of a stack, and replace existing ones once all are written."""
        stem = target[1]
        with staged(stem) as directory:
            aside = directory / stem.name
            for name in self.files.formats:
                STACK_WRITERS[name](output_path(aside, name), output)
            for name in self.files.formats:
                move_into_place(output_path(aside, name), output_path(stem, name))
