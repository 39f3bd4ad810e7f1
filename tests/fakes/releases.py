"""Releases for tests: a short federation of sites that sign, brought to its end, and what the coordinator gives out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.given_under import GivenUnder, PolicyStand
from common.ids import SiteName, digest_of
from common.terms import AggregationTerms, GateMetric, GateTerms, RoundTerms, Terms
from common.tls import Caller, Role
from coordinator.app.make_release import ReleaseMaker, ReleaseWish
from coordinator.app.release_manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Manifest,
    decode_manifest,
    encode_manifest,
    encode_signature,
)
from coordinator.app.verify_release import Verification, verify_release
from coordinator.domain import assignments
from coordinator.domain.values import Phase, RunState
from coordinator.domain.verify import Problem
from tests.fakes.coordinator_updates import chunks_of, first_bytes, update_bytes
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    SITES,
    make_round_terms,
    make_scores,
    make_spec,
    make_terms,
)
from tests.fakes.coordinator_world import World, coordinator, evaluator, site_caller
from tests.fakes.signing import Signers

# One site shows its policy, one keeps it, one has none.
POLICIES = {
    ANNA: GivenUnder(stand=PolicyStand.SHOWN, digest=digest_of(b"anna's policy")),
    BERTA: GivenUnder(stand=PolicyStand.WITHHELD),
    CLARA: GivenUnder(stand=PolicyStand.UNWRITTEN),
}
OPERATOR = Caller(name=ANNA, role=Role.OPERATOR, consortium="demo")


def release_terms(
    aggregation: AggregationTerms | None = None, count: int = 2, gate: GateTerms | None = None, keeps: bool = True
) -> Terms:
    """Terms of a run of ``count`` rounds whose updates are kept."""
    rounds: RoundTerms = replace(make_round_terms(count=count), keeps_updates=keeps)
    return replace(
        make_terms(),
        aggregation=aggregation or AggregationTerms(),
        rounds=rounds,
        gate=gate or GateTerms(metric=GateMetric.NONE),
    )


async def play(
    world: World,
    terms: Terms,
    sign: Callable[..., object] | Signers | None,
    f1_tenths: tuple[int, ...] = (),
    max_lora_ranks: Mapping[SiteName, int] = {},
) -> None:
    """Bring a run of ``terms`` to its end; sites sign by ``sign``; candidates get those F1 scores, in tenths."""
    spec = make_spec(modules=2, width=6, dtype=terms.aggregation.wire_dtype).at_rank(terms.lora.lora_rank)
    await world.begin(terms, spec, first_bytes(world.root, spec))
    await world.invite(max_lora_ranks=max_lora_ranks)
    while world.run.state is RunState.RUNNING and world.run.current is not None:
        current = world.round
        match current.phase:
            case Phase.SELECTING:
                await world.driver.observe_presence()
            case Phase.TRAINING:
                for site in SITES:
                    await send(world, site, sign)
            case Phase.SCORING:
                given = assignments.for_evaluator(world.run, evaluator().name)
                assert given is not None
                assert given.entry is not None
                loss = 1.0 + SITES.index(given.entry.site) / 4
                await world.answers.take_scores(evaluator(), given.assignment_id, make_scores(mean_loss=loss))
            case Phase.EVALUATING:
                given = assignments.for_evaluator(world.run, evaluator().name)
                assert given is not None
                scores = make_scores(f1_tenths[current.number - 1])
                await world.answers.take_scores(evaluator(), given.assignment_id, scores)
        await world.perform_pending()
    await world.perform_pending()
    assert world.run.state is RunState.COMPLETED


async def send(world: World, site: SiteName, sign: Callable[..., object] | Signers | None) -> None:
    """Upload an honest update of that site, signed if there is somebody who signs."""
    plan, spec = world.assignment(site).plan, world.assignment(site).adapter_spec
    assert plan is not None and spec is not None
    asked = replace(spec, tensors=spec.tensors_of(plan.uploaded))
    content = update_bytes(world.root, asked, seed=10 * world.round.number + SITES.index(site))
    claim = world.claim(site, content, num_label_tokens=100 * (SITES.index(site) + 1))
    assert claim.update is not None
    claim = replace(claim, update=replace(claim.update, given_under=POLICIES[site]))
    if isinstance(sign, Signers):
        claim = sign.signed(site, world.run, world.round.number, claim)
    await world.intake.receive(site_caller(site), claim, chunks_of(content))


async def write_release(world: World, signers: Signers, out: Path, **wish: object) -> Path:
    """Write the release of the only run to ``out``, as the operator's command does, without a socket."""
    maker = ReleaseMaker(world.driver, world.store, world.clock, signers.release_key)
    small = await maker.make(OPERATOR, ReleaseWish(run=world.run.run_id, **wish))  # type: ignore[arg-type]
    contents = dict(small)
    updates = {
        entry.update.file.digest: entry.assignment_id
        for past in world.run.rounds
        for entry in past.accepted
        if entry.update is not None
    }
    for file in decode_manifest(small[MANIFEST_FILE]).files:
        if file.path in small:
            continue
        kept = updates.get(file.digest) if file.path.startswith("updates/") else None
        opened = world.kept.adapter(file.digest) if kept is None else world.kept.update(kept, file.digest)
        async with opened as path:
            contents[file.path] = path.read_bytes()
    for name, content in contents.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return out


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a release."""
    return decode_manifest((folder / MANIFEST_FILE).read_bytes())


def forge(folder: Path, signers: Signers, change: Callable[[dict[str, Any]], object]) -> None:
    """What a hostile coordinator does: change the record, and sign it anew with its own release key."""
    document = json.loads((folder / MANIFEST_FILE).read_bytes())
    change(document)
    content = encode_manifest(decode_manifest(json.dumps(document).encode()))
    (folder / MANIFEST_FILE).write_bytes(content)
    (folder / SIGNATURE_FILE).write_bytes(encode_signature(content, signers.release_key))


def relisted(document: dict[str, Any], folder: Path, name: str, content: bytes) -> None:
    """Put other content in place of a file, in the list, too."""
    (folder / name).write_bytes(content)
    for file in document["files"]:
        if file["path"] == name:
            file.update(digest=digest_of(content), size_bytes=len(content))


async def released(
    root: Path,
    signers: Signers,
    terms: Terms,
    f1_tenths: tuple[int, ...] = (),
    max_lora_ranks: Mapping[SiteName, int] = {},
    **wish: object,
) -> Path:
    """The release of a run of ``terms`` that was played in ``root``."""
    async with coordinator(root / "state", keys=signers.known) as world:
        await play(world, terms, signers, f1_tenths, max_lora_ranks)
        return await write_release(world, signers, root / "release", **wish)


def checked(folder: Path, signers: Signers) -> Verification:
    """What a third party with the root's certificate is told."""
    scratch = folder.with_name(f"{folder.name}-scratch")
    scratch.mkdir(exist_ok=True)
    found = verify_release(folder, signers.root, scratch)
    if any(scratch.iterdir()):
        shutil.rmtree(scratch)
    return found


def named(found: Verification) -> set[tuple[Problem, str]]:
    """Each problem and the file that it names."""
    return {(each.problem, each.file) for each in found.findings}
