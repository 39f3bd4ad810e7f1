"""What ``verify`` takes for a release of 84 MB updates: seconds and memory, by number of rounds.

A federation of real processes with a synthetic trainer writes the release; each site signs its updates with a key that
the root certifies. Then the command checks the folder as a third party would: every signature, and each round's
aggregate computed again from its updates. Exit code 1 when it does not say yes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # processes are started, never forked into

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.federation import CONSORTIUM, prepare, synthetic_terms, trainer_of  # noqa: E402
from benchmarks.machine import parser, write_figures  # noqa: E402
from benchmarks.transport import ADAPTERS  # noqa: E402
from common.ids import SiteName  # noqa: E402
from common.terms import LoraTerms, Terms  # noqa: E402
from common.tls import Caller, Role  # noqa: E402
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE  # noqa: E402
from coordinator.adapters.pki.key_certification import make_signing_key  # noqa: E402
from demo.federation import loopback, run_prepared, start_coordinator  # noqa: E402
from demo.prepare import Prepared  # noqa: E402
from demo.processes import process_group  # noqa: E402


def released(folder: Path, adapter: str, sites: int, rounds: int) -> Prepared:
    """Run the rounds, and release the last adapter into ``folder / "release"``.

    Raises:
        RuntimeError: the run did not complete, or there is no release.
    """
    shape, lora_rank = ADAPTERS[adapter]
    names = [f"site-{number}" for number in range(1, sites + 1)]
    terms = _keeping(synthetic_terms(LoraTerms(lora_rank=lora_rank, lora_alpha=2 * lora_rank), names, rounds))
    addresses = loopback(sites + 1)
    prepared = prepare(folder, terms, addresses, trainer_of(shape, "EACH"))
    for name in names:
        caller = Caller(name=SiteName(name), role=Role.SITE, consortium=CONSORTIUM)
        make_signing_key(prepared.root, caller, prepared.agent_configs[name].parent / "identity")
    caller = Caller(name=SiteName("coordinator"), role=Role.COORDINATOR, consortium=CONSORTIUM)
    make_signing_key(prepared.root, caller, prepared.coordinator_config.parent / "identity")
    with process_group(folder / "logs") as group:
        run_prepared(prepared, addresses, group, Console(file=sys.stderr, quiet=True))
        start_coordinator(prepared, addresses, group)
        operator = ("--coordinator", addresses.coordinator, "--identity", str(prepared.operator_identity))
        group.start("release", "coordinator", "release", terms.name, "--out", str(folder / "release"), *operator)
        if group.finish(["release"])["release"] != 0:
            raise RuntimeError(group.log_of("release").read_text(encoding="utf-8"))
    return prepared


def _keeping(terms: Terms) -> Terms:
    return replace(terms, rounds=replace(terms.rounds, keeps_updates=True))


def measure(adapter: str, sites: int, rounds: int) -> dict[str, object]:
    """Make a release, and verify it in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = released(folder, adapter, sites, rounds)
        root = prepared.root / CA_CERTIFICATE_FILE
        command = [sys.executable, "-m", "coordinator", "verify", str(folder / "release"), "--ca", str(root)]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        return {
            "adapter": adapter,
            "sites": sites,
            "rounds": rounds,
            "release_bytes": sum(path.stat().st_size for path in (folder / "release").rglob("*") if path.is_file()),
            "seconds": time.monotonic() - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_rss_bytes": usage.ru_maxrss * 1024,
            "exit_code": process.returncode,
            "said": said.splitlines()[1:],
        }


def main() -> int:
    """Measure all cases."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--adapter", choices=ADAPTERS, default="large")
    options.add_argument("--sites", type=int, default=3)
    options.add_argument("--rounds", type=int, nargs="+", default=[1, 3])
    given = options.parse_args()
    figures = [measure(given.adapter, given.sites, rounds) for rounds in given.rounds]
    table = Table("sites", "rounds", "release MB", "seconds", "CPU s", "peak MB", "exit code")
    for row in figures:
        megabytes = [f"{float(str(row[key])) / 1e6:.0f}" for key in ("release_bytes", "peak_rss_bytes")]
        took = [f"{float(str(row[key])):.1f}" for key in ("seconds", "cpu_seconds")]
        table.add_row(str(row["sites"]), str(row["rounds"]), megabytes[0], *took, megabytes[1], str(row["exit_code"]))
    Console().print(table, *(line for row in figures for line in row["said"]), sep="\n")  # type: ignore[attr-defined]
    write_figures(given.json, figures)
    return int(any(row["exit_code"] for row in figures))


if __name__ == "__main__":
    sys.exit(main())
