"""Improvement of a project's model: fine-tune on corrected images, compare, and promote or reject."""
