"""Synthetic microscope images with exact instance labels, by domain randomisation and simple physics.

``make_image`` makes one image of a named group; ``write_datasets`` writes images in the format that training reads.
"""

from training.data.synthetic.groups import MadeImage, make_image
from training.data.synthetic.registry import SYNTHETIC_GROUPS, SyntheticGroup
from training.data.synthetic.samples import MadeSamples, made_sample, write_datasets

__all__ = [
    "SYNTHETIC_GROUPS",
    "MadeImage",
    "MadeSamples",
    "SyntheticGroup",
    "made_sample",
    "make_image",
    "write_datasets",
]
