"""Tests with other programs, in an environment of their own: ``make hosts``."""
