"""GPU kernels in Triton for both ends of a call: contrast before the engines, mask assembly behind them.

The sources are compiled ahead of time by ``python -m export.kernels``. The runtime loads only what this writes
(``runtime.engines.kernels``); neither Triton nor torch is needed there.
"""
