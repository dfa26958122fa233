"""Segmentation of slides of any size. A resumable job reads and segments a slide in tiles and stitches the results.

>>> from runtime.jobs.slides import ArrayReader, segment_slide
>>> done = segment_slide(ArrayReader(image, "slide"), "found")
>>> done.labels, done.cells  # found/slide_labels.tif, and its number of cells
"""

from runtime.jobs.slides.arrays import ArrayReader
from runtime.jobs.slides.engines import EngineSpec
from runtime.jobs.slides.run import RunOptions, SlideResult, segment_slide
from runtime.jobs.slides.settings import SlideSettings
from runtime.jobs.slides.slide_file import SlideFile

__all__ = ["ArrayReader", "EngineSpec", "RunOptions", "SlideFile", "SlideResult", "SlideSettings", "segment_slide"]
