"""``python -m runtime``: the command ``cellsam-engine``."""

from runtime.commands.entry import main

if __name__ == "__main__":
    main()
