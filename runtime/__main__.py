"""Entry point of ``python -m runtime``, which runs the command ``cellsam-engine``."""

from runtime.commands.main import main

if __name__ == "__main__":
    main()
