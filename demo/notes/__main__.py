"""Command line: `python -m demo.notes --out DIR --sites 3 --seed 7`. Everything else is in `write`."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from demo.notes.generate import Split
from demo.notes.write import DEFAULT_SIZES, default_site_names, write_corpus


def main() -> None:
    """Write the corpus that the arguments ask for and say where it lies."""
    parser = ArgumentParser(prog="python -m demo.notes", description="Write synthetic clinical notes with labels.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpora, one folder a site")
    parser.add_argument("--sites", type=int, default=3, help="how many sites (default: 3)")
    parser.add_argument("--seed", type=int, default=7, help="equal seeds give equal notes (default: 7)")
    for split in Split:
        parser.add_argument(f"--{split}", type=int, default=DEFAULT_SIZES[split], help=f"{split} passages a site")
    arguments = parser.parse_args()
    sizes = {split: getattr(arguments, split) for split in Split}
    sites = default_site_names(arguments.sites)
    write_corpus(arguments.out, sites, arguments.seed, sizes)
    print(f"{sum(sizes.values())} passages for each of {', '.join(sites)} in {arguments.out}")


if __name__ == "__main__":
    main()
