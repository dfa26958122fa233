"""Engine directories: their contents, and the backends that run them."""
