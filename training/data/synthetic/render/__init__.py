"""Rendering of scenes: functions of (scene, rng) that return an image."""
