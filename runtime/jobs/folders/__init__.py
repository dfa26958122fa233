"""Resumable jobs on many images, on one machine or a cluster. The command is ``cellsam-engine segment``."""
