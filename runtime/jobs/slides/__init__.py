"""Slides of any size: read in parts, segmented tile by tile in a job that can be interrupted, stitched as a stream.

>>> from runtime.jobs.slides import ArrayReader, segment_slide
>>> done = segment_slide(ArrayReader(image, "slide"), "found")
>>> done.labels, done.cells  # found/slide_labels.tif, and how many cells it shows
"""

from runtime.jobs.slides.arrays import ArrayReader
from runtime.jobs.slides.engines import EngineSpec
from runtime.jobs.slides.run import RunOptions, SlideResult, segment_slide
from runtime.jobs.slides.settings import SlideSettings
from runtime.jobs.slides.slide_file import SlideFile

__all__ = ["ArrayReader", "EngineSpec", "RunOptions", "SlideFile", "SlideResult", "SlideSettings", "segment_slide"]
