"""The same rounds on this project, Flower and NVIDIA FLARE, in one run: seconds, memory and CPU time.

Every site takes the global adapter, changes one number of every tensor (here: one in all), and returns it with a count;
the weighted mean is the next global adapter. All are real deployments over TLS on loopback, every site a process.
Seconds are those from the begin of a round at the server until the aggregate is there, the median of all rounds but the
first; CPU time is over the same rounds. The server's memory is the most that its processes held at once. *Others* is
the share of the machine's CPU time that went to everything else meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # processes are started, never forked into

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.machine import parser, write_figures  # noqa: E402
from benchmarks.peers.environments import REQUIREMENTS, environment_of, variables  # noqa: E402
from benchmarks.peers.flare import start_flare  # noqa: E402
from benchmarks.peers.flower import start_flower  # noqa: E402
from benchmarks.peers.ours import measure_ours  # noqa: E402
from benchmarks.peers.processes import PeerFailedError, PeerProcesses, peer_processes  # noqa: E402
from benchmarks.peers.work import Measured, Work, measured, spans_of  # noqa: E402
from benchmarks.transport import ADAPTERS  # noqa: E402
from common.adapter import WireDtype  # noqa: E402

PEERS: dict[str, Callable[[PeerProcesses, Path, Work], None]] = {"flwr": start_flower, "nvflare": start_flare}
SYSTEMS = ("fedmedlora", *PEERS)


def measure_peer(peer: str, folder: Path, work: Work) -> Measured:
    """Run the work on a peer; a row without figures that says why, if it cannot be done."""
    try:
        commands = environment_of(peer)
        environment = variables(commands, folder, work.write(folder))
        with peer_processes(folder, environment, work.time_limit) as processes:
            PEERS[peer](processes, folder, work)
            processes.wait("rounds", lambda: len(spans_of(folder, 1.0)) == work.rounds)
        return measured(_title(peer), WireDtype.F32.value, work, spans_of(folder, 1.0), processes.watch)
    except (PeerFailedError, RuntimeError, OSError) as error:
        return Measured(system=_title(peer), dtype=WireDtype.F32.value, work=work, failure=str(error))


def measure(system: str, work: Work) -> list[Measured]:
    """All rows of one system: this one is measured with the peers' dtype, and with its own."""
    rows = []
    for dtype in (WireDtype.F32, WireDtype.BF16) if system == "fedmedlora" else (WireDtype.F32,):
        with tempfile.TemporaryDirectory(prefix="peers-") as name:
            folder = Path(name)
            rows.append(measure_peer(system, folder, work) if system in PEERS else measure_ours(folder, work, dtype))
        print(f"{rows[-1].system} {rows[-1].dtype}: {rows[-1].seconds_per_round:.1f} s a round", file=sys.stderr)
    return rows


def shown(rows: Sequence[Measured]) -> Table:
    """One line a row; in brackets, how many times the first row of the same work it is."""
    table = Table(
        "system", "dtype", "adapter", "sites", "s / round", "server MB", "server CPU s", "sites' CPU s", "others"
    )
    first: dict[Work, Measured] = {}
    for row in rows:
        work = [row.dtype, row.work.adapter, str(row.work.sites)]
        if row.failure:
            table.add_row(row.system, *work, "failed")
            continue
        base = first.setdefault(row.work, row)
        figures = [
            _times(row.seconds_per_round, base.seconds_per_round, 1),
            _times(row.server_peak_rss_bytes / 1e6, base.server_peak_rss_bytes / 1e6, 0),
            _times(row.server_cpu_seconds_per_round, base.server_cpu_seconds_per_round, 1),
            _times(row.clients_cpu_seconds_per_round, base.clients_cpu_seconds_per_round, 1),
            f"{row.others_share_of_cpu:.0%}",
        ]
        table.add_row(row.system, *work, *figures)
    return table


def main() -> int:
    """Measure all that is asked for; exit code 1 when a system could not do the work."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--adapter", choices=ADAPTERS, default="large")
    options.add_argument("--sites", type=int, nargs="+", default=[2])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options.add_argument("--time-limit", type=float, default=1800.0, help="seconds for one run of a peer")
    given = options.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job has SIGINT ignored
        signal.signal(number, _interrupt)
    rows = []
    for sites in given.sites:
        work = Work(adapter=given.adapter, sites=sites, rounds=given.rounds, time_limit=given.time_limit)
        rows += [row for system in given.systems for row in measure(system, work)]
    console = Console()
    console.print(shown(rows))
    for row in rows:
        if row.failure:
            console.print(f"{row.system}, {row.work.sites} sites: {row.failure}", markup=False, soft_wrap=True)
    write_figures(given.json, {"peers": REQUIREMENTS, "rows": [asdict(row) for row in rows]})
    return int(any(row.failure for row in rows))


def _title(peer: str) -> str:
    return REQUIREMENTS[peer][0].replace("==", " ")


def _times(figure: float, base: float, digits: int) -> str:
    ratio = f" (x{figure / base:.1f})" if base else ""
    return f"{figure:,.{digits}f}{ratio}"


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
