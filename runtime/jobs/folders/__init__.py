"""Many images in one job: on one machine or a cluster, resumable. The command is ``cellsam-engine segment``."""
