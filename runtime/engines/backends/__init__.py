"""What runs an engine file: one module for each backend, chosen and loaded by ``load``."""
