"""Correction of segmentations: projects of images whose labels people edit, with a journal of every edit."""
