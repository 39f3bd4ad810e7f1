"""Checks a release from its folder and the consortium's root certificate alone: no network, no key, no trust in it.

It believes a file for its digest, the manifest for the release key's signature, a site's contribution for the site's
own signature, and what can be computed again for nothing but the computation.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from common.errors import FedMedError, InputInvalidError
from common.hash_chain import parse_head
from common.ids import Digest
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE, peft_config
from common.signing import UpdateStatement, fingerprint, is_signed
from common.signing_certificates import CertifiedKey, consortium_of, read_certified_key
from common.tls import Caller, Role
from common.weights_io import WeightsReader, check_update
from coordinator.app.publish_adapter import lineage
from coordinator.app.recompute import Recomputed, recompute
from coordinator.app.release_files import file_findings, files_in, read_signed
from coordinator.app.release_manifest import FORMATS, MANIFEST_FILE, Manifest, weights_of
from coordinator.domain.values import RosterEntry, Round
from coordinator.domain.verify import Finding, Problem, base_of, lineage_findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of it.

    Attributes:
        signed_updates: How many updates their own sites' confirmed keys have signed.
        recomputed: The rounds whose aggregate was computed again from the updates, and was the same.
    """

    findings: tuple[Finding, ...]
    manifest: Manifest | None = None
    signed_updates: int = 0
    recomputed: tuple[int, ...] = ()

    @property
    def is_false(self) -> bool:
        """Whether something contradicts the release."""
        return any(not finding.problem.is_doubt for finding in self.findings)

    @property
    def is_doubtful(self) -> bool:
        """Whether nothing contradicts it, and something is not proven."""
        return bool(self.findings) and not self.is_false


def verify_release(
    folder: Path, root: x509.Certificate, scratch: Path, revoked: Collection[Digest] = ()
) -> Verification:
    """Check the release in ``folder``; aggregates are computed again in ``scratch``, an empty folder.

    ``revoked`` are the fingerprints of signing keys that count no more.

    Raises:
        OSError: the disk failed.
    """
    paths = files_in(folder)
    manifest, findings = read_signed(paths, root, revoked)
    if manifest is None:
        return Verification(findings=tuple(findings))
    findings += file_findings(paths, manifest)
    if findings:  # what is not what it says is not read
        return Verification(findings=tuple(findings), manifest=manifest)
    findings += _record_findings(manifest, root)
    keys = _Keys.of(manifest, root, revoked)
    has_form = not any(finding.problem in _FORMLESS for finding in findings)
    about_updates = [
        finding
        for past in (manifest.run.rounds if has_form else ())
        for entry in past.accepted
        for finding in _update_findings(manifest, past, entry, keys)
    ]
    if not findings:
        findings += [*_listing_findings(manifest), *_content_findings(paths, manifest)]
    findings += [*keys.findings, *about_updates]
    recomputed = Recomputed()
    if not any(not finding.problem.is_doubt for finding in findings):
        recomputed = recompute(manifest, folder, scratch)
        findings += recomputed.findings
    return Verification(
        findings=tuple(findings),
        manifest=manifest,
        signed_updates=sum(len(past.accepted) for past in manifest.run.rounds) - len(about_updates),
        recomputed=recomputed.rounds,
    )


_WEIGHTS_SUFFIX = ".safetensors"
# Without terms and a form of the adapter nothing can be said of what sites trained from.
_FORMLESS = (Problem.TERMS_DIFFER, Problem.SPECIFICATION_DIFFERS)


def _record_findings(manifest: Manifest, root: x509.Certificate) -> Iterator[Finding]:
    terms = manifest.run.terms
    problems = [
        (
            manifest.format in FORMATS,
            Problem.MANIFEST_UNREADABLE,
            f"expected a format of {FORMATS}, got {manifest.format}",
        ),
        (
            manifest.consortium == consortium_of(root),
            Problem.MANIFEST_UNREADABLE,
            f"expected consortium {consortium_of(root)}, got {manifest.consortium[:80]}",
        ),
        (
            (manifest.terms.encode(), manifest.terms_digest) == (terms.canonical, terms.digest),
            Problem.TERMS_DIFFER,
            f"expected the terms of the run, with {terms.digest}",
        ),
    ]
    try:
        parse_head(manifest.audit_head)
    except ValueError as error:
        problems.append((False, Problem.MANIFEST_UNREADABLE, f"audit_{error}"))
    for holds, problem, detail in problems:
        if not holds:
            yield _finding(problem, MANIFEST_FILE, detail)
    yield from lineage_findings(manifest.run, manifest.version, MANIFEST_FILE)


def _listing_findings(manifest: Manifest) -> Iterator[Finding]:
    """Whether the weights in the list are those that the record names: all that were kept, or the adapter alone.

    So a round cannot go without being computed again because one of its updates was left out, and no update can stand
    in the place of another.
    """
    listed = {file.path: file for file in manifest.files}
    weights = {path for path in listed if path.endswith(_WEIGHTS_SUFFIX)}
    wanted = {file.path: file for file in weights_of(manifest.run, with_updates=weights != {WEIGHTS_FILE})}
    for path in sorted(weights - wanted.keys()):
        yield _finding(Problem.FILE_UNEXPECTED, path, "expected no weights that the record does not name")
    for path, file in wanted.items():
        if path not in listed:
            yield _finding(Problem.FILE_MISSING, path, "expected it beside the other weights that were kept, got none")
        elif listed[path] != file:
            expected = f"expected {file.size_bytes} bytes with {file.digest}, as the record says"
            got = f"{listed[path].size_bytes} with {listed[path].digest}"
            yield _finding(Problem.LINEAGE_BROKEN, path, f"{expected}, got {got}")


def _content_findings(paths: dict[str, Path], manifest: Manifest) -> Iterator[Finding]:
    """Whether the adapter has the form of the terms, and what lies beside it says what the record does."""
    run = manifest.run
    candidate = run.rounds[-1].candidate
    if candidate is None:
        return
    spec = run.spec_of(candidate)
    try:
        with WeightsReader(paths[WEIGHTS_FILE]) as reader:
            check_update(reader, spec.tensors, spec.dtype)
    except FedMedError as error:
        yield _finding(Problem.SPECIFICATION_DIFFERS, WEIGHTS_FILE, error.message)
    if _document(paths[CONFIG_FILE]) != peft_config(spec, run.terms):
        expected = "expected what the terms and the adapter's form give"
        yield _finding(Problem.SPECIFICATION_DIFFERS, CONFIG_FILE, expected)
    said = _document(paths[LINEAGE_FILE]) if LINEAGE_FILE in paths else {}
    if not isinstance(said, dict) or _contradicts(said, lineage(run, run.rounds[-1])):
        yield _finding(Problem.LINEAGE_BROKEN, LINEAGE_FILE, f"expected what {MANIFEST_FILE} says of the last round")


def _document(path: Path) -> object:
    """The JSON in a file; None when there is none."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None


def _contradicts(said: object, known: object) -> bool:
    """Whether ``said`` differs from ``known``; a key that only one of them has is of another version, and no lie."""
    if isinstance(said, dict) and isinstance(known, dict):
        return any(_contradicts(said[key], known[key]) for key in said.keys() & known.keys())
    if isinstance(said, list) and isinstance(known, list):
        return len(said) != len(known) or any(map(_contradicts, said, known))
    return said != known


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """Whose key the root says it is, of every certificate in the release."""

    certified: dict[str, CertifiedKey]
    findings: tuple[Finding, ...]
    revoked: Collection[Digest] = ()

    @staticmethod
    def of(manifest: Manifest, root: x509.Certificate, revoked: Collection[Digest]) -> _Keys:
        signed = [entry.update for past in manifest.run.rounds for entry in past.accepted if entry.update is not None]
        pems = {update.signed.certificate_pem for update in signed if update.signed is not None} - {""}
        certified, findings = {}, []
        for pem in sorted(pems | set(manifest.certificates)):
            try:
                certified[pem] = read_certified_key(pem, root)
            except InputInvalidError as error:
                findings.append(_finding(Problem.SIGNING_CERTIFICATE_INVALID, MANIFEST_FILE, error.message))
        return _Keys(certified=certified, findings=tuple(findings), revoked=revoked)

    def holders_of(self, public_key: str, past: Round) -> set[Caller]:
        """Whose key the root says it is, in certificates that were good when the round was opened."""
        return {
            each.caller
            for each in self.certified.values()
            if each.public_key == public_key and past.opened_at <= each.expires_at
        }


def _update_findings(manifest: Manifest, past: Round, entry: RosterEntry, keys: _Keys) -> Iterator[Finding]:
    run, base = manifest.run, base_of(manifest.run, past, entry)
    if entry.update is None or base is None:  # which the record's own check has found
        return
    about, signed = f"round {past.number}, {entry.site}", entry.update.signed
    if signed is None:
        unsigned = f"expected the signature of {entry.site} over its update, got none"
        # Where the terms ask for signatures there is no such thing as an unsigned update in a round.
        is_demanded = run.terms.admission.requires_signatures
        problem = Problem.UPDATE_SIGNATURE_INVALID if is_demanded else Problem.UPDATE_UNSIGNED
        yield Finding(problem=problem, file=MANIFEST_FILE, about=about, detail=unsigned)
        return
    statement = UpdateStatement(
        run_id=run.run_id,
        terms_digest=run.terms.digest,
        round_number=past.number,
        base_digest=base.digest,
        update_digest=entry.update.file.digest,
        num_examples=entry.update.num_examples,
        num_label_tokens=entry.update.num_label_tokens,
        tasks=tuple((each.task, each.num_examples, each.num_label_tokens) for each in entry.update.tasks),
        given_under=entry.update.given_under,
    )
    if not is_signed(statement.message, signed.public_key, signed.signature):
        detail = (
            f"expected a signature by {signed.public_key[:64]} over run, terms, round, base, update, counts and policy"
        )
        yield Finding(problem=Problem.UPDATE_SIGNATURE_INVALID, file=MANIFEST_FILE, about=about, detail=detail)
        return
    holder = Caller(name=entry.site, role=Role.SITE, consortium=manifest.consortium)
    holders = keys.holders_of(signed.public_key, past)
    if holder not in holders:
        problem = Problem.UPDATE_SIGNATURE_INVALID if holders else Problem.SIGNING_KEY_UNCONFIRMED
        got = f"one that it is {', '.join(sorted(each.uri for each in holders))}'s" if holders else "none"
        detail = f"expected the root's certificate that {signed.public_key} is {holder.uri}'s, got {got}"
        yield Finding(problem=problem, file=MANIFEST_FILE, about=about, detail=detail)
    elif fingerprint(signed.public_key) in keys.revoked:
        detail = (
            f"expected a key that was not revoked, got {signed.public_key}: who has a copy of it may have signed this"
        )
        yield Finding(problem=Problem.SIGNING_KEY_REVOKED, file=MANIFEST_FILE, about=about, detail=detail)


def _finding(problem: Problem, file: str, detail: str) -> Finding:
    return Finding(problem=problem, file=file, detail=detail)
