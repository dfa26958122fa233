"""Measurements of the engines, each with a baseline in the same run; records are JSON files in ``results/``."""
