"""Measurements of the engines, always beside a baseline in the same run; results are JSON files in ``results/``."""
