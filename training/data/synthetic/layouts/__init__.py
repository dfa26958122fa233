"""Arrangements and shapes of cells: functions of (rng, size_hw, diameter_px) that return a ``Scene``."""
