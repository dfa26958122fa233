"""Commands that this package adds to ``cellsam-engine``."""
