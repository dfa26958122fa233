"""GPU kernels for contrast and mask assembly, compiled ahead of time by ``python -m export.kernels``."""
