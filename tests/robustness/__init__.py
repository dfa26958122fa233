"""Search for inputs that break the package.

Every call must return a right result or raise ``SegmenterError``, in bounded time and memory. The command
``python -m tests.robustness --minutes 10`` looks for an input for which it does not; ``found/`` keeps such inputs.
"""
