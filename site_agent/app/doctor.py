"""What `fedmed-site doctor` finds: one check a line, each failure with what to do. It judges; adapters look.

A check that could not be made, because another failed or nothing asks for it, is skipped and says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from common.terms import LoraTerms, Terms
from site_agent.domain.memory_estimate import MemoryNeed
from site_agent.domain.policy import SitePolicy
from site_agent.domain.term_rules import judge_terms

# Below it, logs and certificates are still told apart by the second; deadlines are the coordinator's own.
MAX_SKEW = timedelta(seconds=60)
# Of a certificate's life; it is renewed when a third is left, so by then that has not succeeded for a while.
EXPIRY_NOTICE = 1 / 4
# An order folder of an 8B model's adapter: adapter, update, checkpoint with the optimiser's moments; and the ledger.
MIN_FREE_BYTES = 2 * 2**30


class CheckState(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: Of a fixed list.
        detail: What was found; of a failure, expected against got.
        remedy: What to do about a failure, or soon; else empty.
    """

    name: str
    state: CheckState
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Check:
    """A check that found what it should."""
    return Check(name=name, state=CheckState.OK, detail=detail)


def failed(name: str, detail: str, remedy: str) -> Check:
    """A check that found something wrong."""
    return Check(name=name, state=CheckState.FAILED, detail=detail, remedy=remedy)


def skipped(name: str, why: str) -> Check:
    """A check that was not made."""
    return Check(name=name, state=CheckState.SKIPPED, detail=why)


def judge_skew(before: datetime, there: datetime, after: datetime) -> Check:
    """The clock against the coordinator's, which told ``there`` at some moment between ``before`` and ``after``.

    The answer is taken for made half way (Cristian's algorithm, Distributed Computing 3, 1989), so it is uncertain by
    half of the time that the call took.
    """
    skew = before + (after - before) / 2 - there
    uncertain = (after - before) / 2
    way = "ahead of" if skew > timedelta() else "behind"
    detail = (
        f"{abs(skew.total_seconds()):.1f} s {way} the coordinator's, give or take {uncertain.total_seconds():.1f} s"
    )
    if abs(skew) - uncertain <= MAX_SKEW:
        return ok("clock", detail)
    remedy = "set this machine's clock (NTP: `timedatectl set-ntp true`), or tell the operator that theirs is off"
    return failed("clock", f"expected at most {MAX_SKEW.seconds} s, got {detail}", remedy)


def judge_disk(free_bytes: int, folder: str) -> Check:
    """Room for the files of an assignment and for the ledger, without which nothing leaves."""
    detail = f"{free_bytes / 2**30:.1f} GiB free in {folder}"
    if free_bytes >= MIN_FREE_BYTES:
        return ok("disk", detail)
    return failed(
        "disk",
        f"expected at least {MIN_FREE_BYTES / 2**30:.0f} GiB, got {detail}",
        "free room, or move site.state_folder",
    )


def judge_expiry(valid_from: datetime, expires_at: datetime, now: datetime, name: str) -> Check:
    """How long this site's own certificate is still valid."""
    left = expires_at - now
    until = expires_at.strftime("%Y-%m-%d %H:%M UTC")
    if left <= timedelta():
        return failed("certificate", f"expected one that is valid now, got one until {until}", "ask for a new one")
    remedy = "ask the operator for a new one in time" if left < (expires_at - valid_from) * EXPIRY_NOTICE else ""
    return Check(name="certificate", state=CheckState.OK, detail=f"{name}, valid until {until}", remedy=remedy)


def judge_memory(name: str, total_bytes: int, needed: MemoryNeed) -> Check:
    """The largest GPU, or the machine, against an estimate (`site_agent.domain.memory_estimate`)."""
    detail = (
        f"{total_bytes / 2**30:.1f} GiB there, some {needed.total_bytes / 2**30:.1f} GiB needed "
        f"at LoRA rank {needed.lora_rank}"
    )
    if total_bytes >= needed.total_bytes:
        return ok(name, detail)
    remedy = "a larger device; or a run with quantization nf4, gradient checkpointing or a smaller tokens_per_batch"
    largest = needed.largest_rank(total_bytes)
    if not largest:
        return failed(name, f"expected enough, got {detail}", remedy)
    if 0 < needed.least_lora_rank <= largest:
        remedy = f"set policy.max_lora_rank to {largest}: the run lets sites choose their rank; or {remedy}"
    else:
        remedy += f"; or a run with a lora.least_lora_rank from 1 to {largest}, and policy.max_lora_rank {largest} here"
    return failed(name, f"expected enough, got {detail}; the largest rank that fits is {largest}", remedy)


def lora_here(run: Terms | None, policy: SitePolicy | None) -> LoraTerms:
    """The LoRA terms of ``run``, else the default ones, with the rank at which this site would train, if at all.

    A run that leaves its sites no choice has one rank alone; whether the policy allows it, `judge_run` says.
    """
    lora = run.lora if run else LoraTerms()
    if policy is None or (run and not lora.least_lora_rank):
        return lora
    return replace(lora, lora_rank=max(lora.least_lora_rank, min(lora.lora_rank, policy.max_lora_rank)))


def judge_run(terms: Terms, policy: SitePolicy) -> Check:
    """The terms of a run against the site's policy, as the agent would judge them."""
    outside = [each for each in judge_terms(terms, policy, is_trained="train" in policy.kinds) if not each.is_allowed]
    if outside:
        got = "; ".join(f"{each.path}: expected {each.expected}, got {each.got}" for each in outside)
        remedy = "ask the operator for other terms, or widen the policy: as it is, the agent declines this run"
        return failed("terms", f"{terms.name}: {got}", remedy)
    approval = "approved by the policy" if policy.has_standing_approval else "a person here must approve it"
    return ok("terms", f"{terms.name} ({terms.digest}): within the policy; {approval}")
