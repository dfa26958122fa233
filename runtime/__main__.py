"""``python -m runtime``: the command ``cellsam-engine``."""

from runtime.cli import main

if __name__ == "__main__":
    main()
