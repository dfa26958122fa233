"""Engine directories: what they hold, and the backends that run them."""
