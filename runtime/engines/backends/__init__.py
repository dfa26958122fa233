"""Backends that run engine files: one module each, chosen and loaded by ``load``."""
