"""Backends: each loads an engine file and runs it behind the ``Engine`` protocol."""

from runtime.backends.base import Arrays, BackendOptions, Engine, load_engine

__all__ = ["Arrays", "BackendOptions", "Engine", "load_engine"]
