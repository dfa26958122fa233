"""Edit operations: frozen dataclasses that compute a difference of labels without changing them."""
