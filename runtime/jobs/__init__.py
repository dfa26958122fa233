"""Resumable jobs on many images or whole slides, on one machine or a cluster."""
