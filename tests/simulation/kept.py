"""Looks, while a run goes on, at files that only its open round needs: the state of a strategy, parts of adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.ids import AssignmentId, digest_of
from coordinator.domain.cohort import state_id
from coordinator.domain.values import AdapterFile, AdapterPart, Phase, Round, Run


@dataclass(slots=True)
class KeptFiles:
    """What was seen of them so far, over all lives of the coordinator."""

    parts: dict[int, tuple[AdapterPart, ...]] = field(default_factory=dict)
    states: dict[int, AdapterFile] = field(default_factory=dict)
    looks: int = 0  # at a round that has such files

    def faults(self, run: Run | None, files: Callable[[], Mapping[str, bytes]]) -> list[str]:
        """What must not be: a file that the run names and that is not there, or another one in its place."""
        if run is None:
            return []
        found = [fault for past in run.rounds for fault in self._changed(past)]
        needed = _needed(run)
        if needed:
            self.looks += 1
            there = files()
            for kept_under, file in needed.items():
                content = there.get(f"srv/state/updates/{kept_under}.safetensors")
                if content is None or digest_of(content) != file.digest:
                    found.append(f"{kept_under} is {'lost' if content is None else 'another file'}")
        return found

    def _changed(self, past: Round) -> list[str]:
        """Parts are cut, and a state is made, once in a round."""
        found = []
        if past.parts and self.parts.setdefault(past.number, past.parts) != past.parts:
            found.append(f"round {past.number}: parts were cut twice")
        if past.state is not None and self.states.setdefault(past.number, past.state) != past.state:
            found.append(f"round {past.number}: a state was made twice")
        if (past.number in self.parts and not past.parts) or (past.number in self.states and past.state is None):
            found.append(f"round {past.number}: parts or a state are forgotten")
        return found


def _needed(run: Run) -> dict[AssignmentId, AdapterFile]:
    """The parts of a round in training, and the state that the open round goes on with."""
    current = run.rounds[-1] if run.rounds else None
    if current is None or not current.phase.is_open:
        return {}
    states = {
        state_id(run.run_id, past.number): past.state
        for past in run.rounds[:-1]
        if past.state is not None and past.candidate == current.global_adapter
    }
    parts = current.parts if current.phase is Phase.TRAINING else ()
    return states | {part.part_id: part.file for part in parts}
