"""Changes every byte of every file of a release, one at a time, and has each change judged as `verify` judges.

``python -m benchmarks.tampering RELEASE --ca ca_certificate.pem``: the release is copied, and each judgement is that of
the command's own code on the whole folder. A change counts as found when the verdict is no and the file is named, and
no other one. Exit code 1 when one was not. It takes milliseconds a byte: make the release of a small adapter.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from rich.console import Console
from rich.table import Table

from benchmarks.machine import parser, write_figures
from common.signing_certificates import read_root
from coordinator.app.release_files import files_in
from coordinator.app.verify_release import verify_release


def main() -> int:
    """Print, for each file, how many changes were made and how many of them were found."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("release", type=Path, help="a folder that `fedmed-coordinator release` wrote")
    options.add_argument("--ca", type=Path, required=True, help="the consortium's root certificate")
    given = options.parse_args()
    root = read_root(given.ca.read_bytes())
    warnings.filterwarnings("ignore", message="Parsed a serial number")  # of certificates that were changed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(given.release, Path(name) / "release"))
        scratch = Path(name) / "scratch"
        scratch.mkdir()
        if verify_release(folder, root, scratch).is_false:
            print("the release itself does not verify", file=sys.stderr)
            return 1
        began = time.monotonic()
        figures = [_tampered(folder, path, root, scratch) for path in sorted(files_in(folder))]
        seconds = time.monotonic() - began
    table = Table("file", "bytes", "found")
    for row in figures:
        table.add_row(*map(str, row.values()))
    total, found = (sum(int(str(row[key])) for row in figures) for key in ("bytes", "found"))
    table.add_row("all", str(total), str(found))
    Console().print(table, f"{seconds:.0f} s")
    write_figures(given.json, {"files": figures, "bytes": total, "found": found, "seconds": seconds})
    return int(found != total)


def _tampered(folder: Path, name: str, root: x509.Certificate, scratch: Path) -> dict[str, object]:
    """Change each byte of one file, and put it back."""
    path, found = folder / name, 0
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(_others(content)):
            file.seek(place)
            file.write(bytes([byte]))
            said = verify_release(folder, root, scratch)
            found += said.is_false and {each.file for each in said.findings} == {name}
            file.seek(place)
            file.write(content[place : place + 1])
    return {"file": name, "bytes": len(content), "found": found}


def _others(content: bytes) -> Iterator[int]:
    """Another value for each byte, at random."""
    dice = random.Random(1)
    return (byte ^ dice.randrange(1, 256) for byte in content)


if __name__ == "__main__":
    sys.exit(main())
