"""Inputs that nobody made on purpose: every call returns a right result or raises ``SegmenterError``, in bounded time
and memory. ``python -m tests.robustness --minutes 10`` looks for one that does not; ``found/`` holds those that did."""
