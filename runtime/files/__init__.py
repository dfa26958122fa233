"""Readers for image files and writers for results."""
