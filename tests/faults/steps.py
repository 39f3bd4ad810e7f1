"""Every named step of a round at which a process is killed: one list, in the order in which the steps come.

A step is the moment at which a process has written a line of its story to its log. INFO alone is the story of a round,
so there is one after everything that is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COORDINATOR, SITE, EVALUATOR = "coordinator", "site-1", "evaluator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A line in the log of ``process``: an event, and fields that it must have."""

    process: str
    event: str
    fields: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """For a report."""
        return " ".join([self.process, self.event, *(str(value) for value in self.fields.values())])


def _coordinator(event: str, **fields: object) -> Step:
    return Step(process=COORDINATOR, event=event, fields=fields)


# Before the first round: the run is created, and its first adapter made.
BEGINNING = (
    _coordinator("run_created"),
    Step(process=EVALUATOR, event="assignment_received", fields={"kind": "initialise"}),
    Step(process=EVALUATOR, event="trainer_finished", fields={"kind": "initialise"}),
    _coordinator("run_state", run_state="running"),
)
# Each in a round of its own.
IN_A_ROUND = (
    _coordinator("round_phase", phase="training"),
    _coordinator("site_outcome", outcome="joined", site="site-1"),
    _coordinator("site_outcome", outcome="accepted", site="site-1"),
    _coordinator("round_phase", phase="aggregating"),
    _coordinator("round_phase", phase="evaluating"),
    _coordinator("round_phase", phase="committed"),
    *(
        Step(process=SITE, event=event, fields={"kind": "train"})
        for event in (
            "assignment_received",
            "assignment_taken",
            "trainer_started",
            "trainer_finished",
            "answer_accepted",
        )
    ),
    *(
        Step(process=EVALUATOR, event=event, fields={"kind": "evaluate"})
        for event in (
            "assignment_received",
            "assignment_taken",
            "trainer_started",
            "trainer_finished",
            "answer_accepted",
        )
    ),
)
