"""``python -m lab`` is ``fedmed-lab``."""

from lab.cli import main

if __name__ == "__main__":
    main()
