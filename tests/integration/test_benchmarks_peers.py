"""What measures the peers: trees of processes, whoever left them, and rows made of what a peer's code wrote down."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.peers.processes import PeerFailedError, peer_processes
from benchmarks.peers.work import AGGREGATING, SITES, Span, Work, measured, spans_of, timeline_of
from benchmarks.usage import TreeSample, TreeWatch

# A shell that starts a process in a session of its own and ends: nobody is its parent any more.
LEAVES_A_CHILD = "setsid sleep 600 & echo $! > child.pid; sleep 1"


def is_there(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return line.rpartition(")")[2].split()[0] not in "ZX"


def test_a_process_that_left_its_parent_is_killed_at_the_end(tmp_path: Path) -> None:
    with peer_processes(tmp_path, {}, time_limit=60) as processes:
        assert processes.run("tool", ["sh", "-c", LEAVES_A_CHILD])
        child = int((tmp_path / "child.pid").read_text())
        assert is_there(child)

    assert not is_there(child)


def test_processes_are_killed_after_an_interrupt(tmp_path: Path) -> None:
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt), peer_processes(tmp_path, {}, time_limit=60) as processes:
        processes.start(SITES, "site", ["sleep", "600"])
        pids += processes.watch.alive()
        raise KeyboardInterrupt

    assert pids
    assert not any(map(is_there, pids))


def test_a_peer_that_takes_too_long_fails_with_the_end_of_its_log(tmp_path: Path) -> None:
    failure = pytest.raises(PeerFailedError, match="time limit, waiting for slow: thinking")
    with failure, peer_processes(tmp_path, {}, time_limit=1) as processes:
        processes.run("slow", ["sh", "-c", "echo thinking; sleep 600"])


def test_a_peer_whose_process_ends_fails_with_its_exit_code(tmp_path: Path) -> None:
    failure = pytest.raises(PeerFailedError, match="site ended with exit code 3: no such thing")
    with failure, peer_processes(tmp_path, {}, time_limit=60) as processes:
        processes.start(SITES, "site", ["sh", "-c", "echo no such thing; exit 3"])
        processes.wait("rounds", lambda: False)


def test_a_run_that_its_log_calls_failed_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.processes.READ_SECONDS", 0.0)
    failure = pytest.raises(PeerFailedError, match="the run failed, says server: oh no")
    with failure, peer_processes(tmp_path, {}, time_limit=60) as processes:
        processes.sign_of_failure = "oh no"
        processes.start(AGGREGATING, "server", ["sh", "-c", "echo oh no; sleep 600"])
        processes.wait("rounds", lambda: False)


def test_a_tree_counts_the_cpu_time_of_children_that_have_ended(tmp_path: Path) -> None:
    begin = time.time()
    busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    with peer_processes(tmp_path, {}, time_limit=60) as processes:
        processes.start(AGGREGATING, "parent", ["sh", "-c", f"sleep 0.5; sh -c '{busy}'; touch done; sleep 600"])
        processes.wait("done", (tmp_path / "done").exists)
        watch, done = processes.watch, time.time()
        processes.wait("a sample", lambda: watch.samples[AGGREGATING][-1].at > done)

    assert watch.cpu_seconds(AGGREGATING, begin, time.time()) > 0.1
    assert watch.peak_rss_bytes(AGGREGATING) > 500_000
    assert watch.cpu_seconds(SITES, begin, time.time()) == 0


def write_timeline(folder: Path, numbers: list[float]) -> None:
    """Rounds of ten seconds, two seconds apart."""
    lines = []
    for index, number in enumerate(numbers):
        lines.append({"event": "began", "at": 12.0 * index, "number": index + 1})
        lines.append({"event": "aggregated", "at": 12.0 * index + 10, "number": number})
    timeline_of(folder).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rounds_are_read_from_what_the_peers_code_wrote_down(tmp_path: Path) -> None:
    assert spans_of(tmp_path, 1.0) == []

    write_timeline(tmp_path, [1.0, 2.0])

    assert spans_of(tmp_path, 1.0) == [Span(began=0.0, ended=10.0), Span(began=12.0, ended=22.0)]


def test_rounds_that_made_no_mean_are_not_measured(tmp_path: Path) -> None:
    write_timeline(tmp_path, [1.0, 1.0])

    with pytest.raises(RuntimeError, match=r"round 2: the mean is 1\.0, expected 2\.0"):
        spans_of(tmp_path, 1.0)


def test_the_first_round_counts_for_nothing_but_memory() -> None:
    watch = TreeWatch(dict)
    for at, cpu in ((0.0, 5.0), (12.0, 9.0), (34.0, 11.0)):
        watch.samples.setdefault(AGGREGATING, []).append(TreeSample(at=at, rss_bytes=100 - int(at), cpu_seconds=cpu))
    spans = [Span(began=0.0, ended=11.0), Span(began=12.0, ended=20.0), Span(began=22.0, ended=34.0)]

    row = measured("a peer", "f32", Work(adapter="small", sites=2, rounds=3, time_limit=1), spans, watch)

    assert row.seconds_per_round == 10.0
    assert row.server_cpu_seconds_per_round == 1.0
    assert row.server_peak_rss_bytes == 100
