"""Search for inputs that break the package.

Every call must return a correct result or raise ``SegmenterError``, in bounded time and memory. The command
``python -m tests.robustness --minutes 10`` searches for inputs that violate this and writes them to ``found/``.
"""
