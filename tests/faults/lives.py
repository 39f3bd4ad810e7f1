"""Lives of one coordinator over its real store, folders and use cases, in one process, with the agents played.

Every run of two rounds has some hundreds of changes of the disk; each one is a place to die.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.ids import AssignmentId, Digest, SiteName
from common.terms import Terms
from common.tls import Caller
from coordinator.adapters.storage.bucket import Bucket
from coordinator.app.create_run import create
from coordinator.app.update_intake import UploadClaim
from coordinator.domain import assignments
from coordinator.domain.values import Phase, RunState
from tests.fakes.coordinator_updates import chunks_of, digest_bytes, trained_claim, update_bytes
from tests.fakes.coordinator_values import SITES, make_scores, make_spec, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator, site_caller
from tests.fakes.crashes import Fuse, Killed

CHUNK_BYTES = 300


@dataclass(slots=True, kw_only=True)
class PlayedAgents:
    """What they send in each round, and what they were told is accepted. They outlive the coordinator.

    Attributes:
        max_lora_ranks: Up to which rank sites say that they train; the others say nothing of it.
    """

    files: dict[str, bytes]
    terms: Terms = field(default_factory=make_terms)
    max_lora_ranks: Mapping[SiteName, int] = field(default_factory=dict)
    accepted: dict[AssignmentId, Digest] = field(default_factory=dict)

    async def go_on(self, world: World, fuse: Fuse) -> None:
        """Do what the run waits for until it has ended; each answer that leaves the coordinator is a place to die."""
        if not world.driver.runs:
            await create(world.driver, world.clock, self.terms)
            fuse.burn()
        self.check_nothing_was_lost(world)
        while world.run.state.is_open:
            await world.perform_pending()
            current = world.run.current
            if world.run.state is RunState.INITIALISING:
                await self.send_first(world, fuse)
            elif current is not None and current.phase is Phase.SELECTING:
                await world.invite(max_lora_ranks=self.max_lora_ranks)
            elif current is not None and current.phase is Phase.TRAINING:
                await self.send_updates(world, fuse)
            elif current is not None and current.phase is Phase.EVALUATING:
                await self.score(world, fuse)
        await world.perform_pending()

    def check_nothing_was_lost(self, world: World) -> None:
        entries = {entry.assignment_id: entry for past in world.run.rounds for entry in past.roster}
        for assignment_id, digest in self.accepted.items():
            update = entries[assignment_id].update
            assert update is not None, "an accepted update is gone"
            assert update.file.digest == digest, "an accepted update is another one"

    async def send_first(self, world: World, fuse: Fuse) -> None:
        given = assignments.for_evaluator(world.run, evaluator().name)
        assert given is not None
        content = self.files["first"]
        claim = UploadClaim(
            assignment_id=given.assignment_id,
            digest=digest_bytes(content),
            size_bytes=len(content),
            first_spec=make_spec(),
        )
        await self.upload(world, evaluator(), claim, content)
        fuse.burn()

    async def send_updates(self, world: World, fuse: Fuse) -> None:
        for entry in world.round.awaited:
            content = self.files[f"{entry.site} {world.round.number}"]
            tokens = 100 * (1 + SITES.index(entry.site))
            start = world.assignment(entry.site).adapter
            assert start is not None, "training starts from an adapter"
            claim = trained_claim(entry.assignment_id, content, start.digest, num_label_tokens=tokens)
            await self.upload(world, site_caller(entry.site), claim, content)
            fuse.burn()
            self.accepted[entry.assignment_id] = claim.digest

    async def upload(self, world: World, caller: Caller, claim: UploadClaim, content: bytes) -> None:
        """As an agent does it: ask how far the upload is, and send what is missing."""
        state = await world.intake.state(caller, claim.assignment_id, claim.digest)
        if not state.is_accepted:
            await world.intake.receive(caller, claim, chunks_of(content, state.offset, CHUNK_BYTES))

    async def score(self, world: World, fuse: Fuse) -> None:
        given = assignments.for_evaluator(world.run, evaluator().name)
        assert given is not None
        scores = make_scores(f1_tenths=world.round.number)
        await world.answers.take_scores(evaluator(), given.assignment_id, scores)
        fuse.burn()


def sent_files(folder: Path, max_lora_ranks: Mapping[SiteName, int] = {}) -> dict[str, bytes]:
    """What the agents of a run send, each at its rank; made in ``folder``."""
    spec = make_spec()
    sent = [(site, f"{site} {number}") for number in (1, 2) for site in SITES]
    ranks = {"first": spec.lora_rank, **{name: max_lora_ranks.get(site, spec.lora_rank) for site, name in sent}}
    return {name: update_bytes(folder, spec.at_rank(rank), seed) for seed, (name, rank) in enumerate(ranks.items())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run left: its rosters and scores, what the audit log says, and every file of the registry."""

    rounds: tuple[object, ...]
    audit: tuple[bytes, ...]
    published: dict[str, bytes]
    updates: list[str]


async def outcome_of(root: Path) -> Outcome:
    async with coordinator(root) as world:
        assert await world.store.pending_commands() == ()
        assert world.run.state is RunState.COMPLETED
        rounds = tuple((past.phase, past.roster, past.scores, past.candidate) for past in world.run.rounds)
        files = sorted(path for path in world.registry.rglob("*") if path.is_file())
        published = {str(path.relative_to(world.registry)): path.read_bytes() for path in files}
        audit = await world.store.audit_lines(0, 1000)
        return Outcome(rounds=rounds, audit=audit, published=published, updates=world.update_files())


async def live(root: Path, agents: PlayedAgents, fuse: Fuse, bucket: Bucket | None = None) -> bool:
    """One life of a coordinator; whether it came to the end of the run."""
    with fuse.burning():
        try:
            async with coordinator(root, bucket=bucket) as world:
                await agents.go_on(world, fuse)
        except Killed:
            return False
    return True


async def undisturbed(root: Path, files: dict[str, bytes], agents: PlayedAgents | None = None) -> tuple[Outcome, int]:
    """What a run without a crash leaves, and how many changes it takes."""
    fuse = Fuse()
    assert await live(root, agents or PlayedAgents(files=files), fuse)
    return await outcome_of(root), fuse.count
