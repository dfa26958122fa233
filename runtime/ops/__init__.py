"""Pure functions on arrays, without engines, input or output."""
