"""Commands that the export adds to ``cellsam-engine``."""
