"""A site signs what its egress check lets out, with the key that it has; where terms ask for more, it declines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import Reason
from common.signing import SigningKey, UpdateStatement, is_signed
from common.terms import AdmissionTerms
from site_agent.adapters import translate
from site_agent.app.answers import TrainedUpdate
from site_agent.domain.assignment import Assignment
from site_agent.domain.assignment_machine import Stage
from tests.fakes.site_scene import assignment_of, scene

KEY = SigningKey(private=Ed25519PrivateKey.from_private_bytes(bytes(range(32))), certificate_pem="a certificate")


def demanding() -> Assignment:
    assignment = assignment_of()
    return replace(assignment, terms=replace(assignment.terms, admission=AdmissionTerms(requires_signatures=True)))


async def test_an_update_leaves_with_the_sites_signature_over_what_the_header_says(tmp_path: Path) -> None:
    async with scene(tmp_path, signing_key=KEY) as on:
        assignment = demanding()
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DONE)
        (header,) = on.coordinator.uploads
    assert header.signature is not None
    assert isinstance(header.content, TrainedUpdate)
    statement = UpdateStatement(
        run_id=assignment.run_id,
        terms_digest=assignment.terms.digest,
        round_number=assignment.round_number,
        base_digest=header.content.base_digest,
        update_digest=header.digest,
        num_examples=header.content.num_examples,
        num_label_tokens=header.content.num_label_tokens,
    )
    assert is_signed(statement.message, KEY.public_key, header.signature.signature)
    message = translate.upload_header(header).header.signature
    assert (message.signature.hex(), message.public_key.hex()) == (header.signature.signature, KEY.public_key)
    assert message.certificate == b"a certificate"


async def test_an_update_that_may_not_leave_is_not_signed(tmp_path: Path) -> None:
    async with scene(tmp_path, signing_key=KEY, layout={"stray_bytes": 9}) as on:
        on.trainer.may_end.set()
        assignment = assignment_of()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([Reason.EGRESS_DENIED], [])


async def test_a_site_without_a_key_sends_its_update_unsigned(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        assignment = assignment_of()
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DONE)
        (header,) = on.coordinator.uploads
    assert header.signature is None
    assert not translate.upload_header(header).header.HasField("signature")


async def test_a_site_without_a_key_declines_before_it_trains_where_the_terms_ask_for_signatures(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as on:
        assignment = demanding()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DECLINED)
        assert on.coordinator.declined == [Reason.SETTINGS_UNSUPPORTED]
        assert on.trainer.starts == 0
