"""A virtual environment for each peer, made once, with numpy and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What is installed, exactly; a changed line makes the environment again.
REQUIREMENTS = {
    "flwr": ("flwr==1.41.0", "numpy==2.4.6"),
    "nvflare": ("nvflare==2.9.0", "numpy==2.4.6"),
}
CACHE = Path(__file__).parents[2] / ".cache" / "peers"
INSTALL_SECONDS = 900


def environment_of(peer: str) -> Path:
    """The folder with a peer's commands, installed if it is not there.

    Raises:
        RuntimeError: it cannot be installed; says what pip said.
    """
    home = CACHE / peer
    stamp, wanted = home / "installed.txt", "\n".join(REQUIREMENTS[peer]) + "\n"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        home.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(home / "bin/python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]])
        stamp.write_text(wanted, encoding="utf-8")
    return home / "bin"


def variables(commands: Path, folder: Path, work: Path) -> dict[str, str]:
    """Environment variables of a peer's processes: its commands first, and a home that is thrown away."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": f"{commands}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "TMPDIR": str(folder),
        "PYTHONPATH": "",
        "OMP_NUM_THREADS": "1",
        "PEERS_WORK": str(work),
    }


def _run(command: list[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not installed after {INSTALL_SECONDS} s: {' '.join(command)}") from None
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr[-1000:].strip()}")
