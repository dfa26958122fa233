"""Pure functions on arrays: no engine, no input or output."""
