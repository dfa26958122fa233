"""Segmentation of one view of an image: encode, detect, decode, assemble."""
