"""A site says under which policy it gives an update by the digest of its file, or that it keeps even that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import InputInvalidError, Reason
from common.given_under import GivenUnder, PolicyStand
from common.ids import digest_of
from common.signing import SigningKey, is_signed
from coordinator.adapters.rpc.translate import claim_from
from coordinator.app.check_signature import statement_of
from demo.policy import Egress
from fedmedlora.v1 import rounds_pb2
from site_agent.adapters import translate
from site_agent.app.answers import TrainedUpdate, UploadHeader
from site_agent.domain.assignment import TrainWork
from site_agent.domain.assignment_machine import Stage
from site_agent.domain.egress import given_under
from site_agent.domain.policy import METRICS, unwritten_policy
from tests.fakes.coordinator_values import make_terms, new_run
from tests.fakes.site_policies import policy_for, write_policy
from tests.fakes.site_scene import assignment_of, scene

KEY = SigningKey(private=Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
DIGEST = digest_of(b"policy")


def test_a_policy_that_names_its_digest_is_shown_by_that_of_its_file(tmp_path: Path) -> None:
    policy = policy_for(tmp_path, make_terms(), egress=Egress(metrics=tuple(sorted(METRICS))))
    content = (tmp_path / "policy.toml").read_bytes()
    assert given_under(policy) == GivenUnder(stand=PolicyStand.SHOWN, digest=digest_of(content))


def test_another_comment_is_another_file_and_so_another_digest(tmp_path: Path) -> None:
    before = policy_for(tmp_path, make_terms()).digest
    path = write_policy(tmp_path / "policy.toml", make_terms())
    path.write_bytes(path.read_bytes() + b"# changed\n")
    assert digest_of(path.read_bytes()) != before


def test_a_policy_that_does_not_name_its_digest_keeps_it_and_that_is_said(tmp_path: Path) -> None:
    policy = policy_for(tmp_path, make_terms(), egress=Egress(metrics=("num_examples", "num_label_tokens")))
    assert policy.digest is not None
    assert given_under(policy) == GivenUnder(stand=PolicyStand.WITHHELD)


def test_a_site_without_a_policy_says_that_there_is_none() -> None:
    assert given_under(unwritten_policy(("train",), ("fed_medlora",))) == GivenUnder(stand=PolicyStand.UNWRITTEN)


@pytest.mark.parametrize("asks", [True, False])
async def test_it_leaves_signed_with_the_update_and_only_if_the_coordinator_asks(tmp_path: Path, asks: bool) -> None:
    assignment = assignment_of()
    assert isinstance(assignment.work, TrainWork)
    assignment = replace(assignment, work=replace(assignment.work, asks_given_under=asks))
    async with scene(tmp_path, signing_key=KEY) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DONE)
        (header,) = on.coordinator.uploads
    assert isinstance(header.content, TrainedUpdate)
    assert header.content.given_under == (GivenUnder(stand=PolicyStand.UNWRITTEN) if asks else None)
    claim = claim_from(translate.upload_header(header))
    assert claim.update is not None and claim.signature is not None
    run = replace(new_run(assignment.terms), run_id=assignment.run_id)
    statement = statement_of(run, assignment.round_number, claim.digest, claim.update)
    assert is_signed(statement.message, KEY.public_key, claim.signature.signature)
    other = replace(statement, given_under=GivenUnder(stand=PolicyStand.WITHHELD))
    assert not is_signed(other.message, KEY.public_key, claim.signature.signature)


@pytest.mark.parametrize("said", [GivenUnder(stand=each) for each in (PolicyStand.WITHHELD, PolicyStand.UNWRITTEN)])
def test_what_is_not_shown_has_no_digest_on_the_wire(said: GivenUnder) -> None:
    assert claim_of(said) == said


def test_the_digest_crosses_the_wire_as_it_is() -> None:
    said = GivenUnder(stand=PolicyStand.SHOWN, digest=DIGEST)
    assert claim_of(said) == said


@pytest.mark.parametrize(
    ("stand", "digest", "reason"),
    [
        (rounds_pb2.POLICY_STAND_UNSPECIFIED, DIGEST, Reason.FIELD_INVALID),
        (77, DIGEST, Reason.FIELD_INVALID),
        (rounds_pb2.POLICY_STAND_WITHHELD, DIGEST, Reason.FIELD_INVALID),
        (rounds_pb2.POLICY_STAND_SHOWN, "", Reason.DIGEST_INVALID),
        (rounds_pb2.POLICY_STAND_SHOWN, "strategies = []", Reason.DIGEST_INVALID),
    ],
)
def test_a_stand_that_is_none_is_refused(stand: int, digest: str, reason: Reason) -> None:
    message = message_of(None)
    message.header.trained.given_under.stand = stand  # type: ignore[assignment]
    message.header.trained.given_under.digest = digest
    with pytest.raises(InputInvalidError) as refused:
        claim_from(message)
    assert refused.value.reason is reason


def message_of(said: GivenUnder | None) -> rounds_pb2.UploadUpdateRequest:
    update = TrainedUpdate(base_digest=DIGEST, num_examples=1, num_label_tokens=2, mean_loss=None, given_under=said)
    header = UploadHeader(assignment_id=assignment_of().assignment_id, digest=DIGEST, size_bytes=9, content=update)
    return translate.upload_header(header)


def claim_of(said: GivenUnder) -> GivenUnder | None:
    claim = claim_from(message_of(said))
    assert claim.update is not None
    return claim.update.given_under
