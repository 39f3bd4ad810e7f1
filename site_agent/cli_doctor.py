"""The command ``fedmed-site doctor``: looks at everything a site needs, and says what to do about what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from common.identity_folder import CertifiedIdentity
    from common.terms import Terms
    from site_agent.app.doctor import Check
    from site_agent.config import SiteConfig
    from site_agent.domain.policy import SitePolicy


def doctor(
    config: Annotated[Path, typer.Option("--config", help="the agent's configuration (TOML)")],
    terms: Annotated[
        Path | None, typer.Option("--terms", help="a run's terms (TOML), as its operator has them: check for that run")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a list of name, state, detail and remedy")] = False,
) -> None:
    """Check this site: configuration, identity, network, coordinator, clock, disk, GPU, base model, data, ledger."""
    from common.config import load_toml
    from common.errors import InputInvalidError
    from site_agent.app.doctor import CheckState, failed
    from site_agent.config import SiteConfig

    try:
        loaded = load_toml(config.absolute(), SiteConfig)
    except InputInvalidError as error:
        checks = [failed("configuration", error.message, "correct the configuration")]
    else:
        checks = list(_all_checks(loaded, terms))
    _print(checks, as_json=json)
    raise typer.Exit(int(any(check.state is CheckState.FAILED for check in checks)))


def _all_checks(config: SiteConfig, terms_file: Path | None) -> Iterator[Check]:
    from site_agent.adapters import machine_checks
    from site_agent.app.doctor import ok

    yield ok("configuration", "valid")
    policy = _readable_policy(config)
    run, about_run = _run_checks(policy, terms_file)
    yield from about_run
    yield from _link_checks(config)
    yield machine_checks.check_disk(config.site.state_folder)
    yield machine_checks.check_chain(config.site.state_folder)
    yield from _memory_checks(config, run, policy)
    expected = run.base_model.weights_digest if run else config.base_model.weights_digest or ""
    yield machine_checks.check_base_model(config.base_model.location, expected)
    yield machine_checks.check_notes((*config.data.train, *config.data.validation))


def _readable_policy(config: SiteConfig) -> SitePolicy | None:
    """The site's policy; what is wrong with one that cannot be read, the check of the policy tells."""
    from common.errors import FedMedError
    from site_agent.wiring import load_site_policy

    try:
        return load_site_policy(config).policy
    except FedMedError:
        return None


def _run_checks(policy: SitePolicy | None, terms_file: Path | None) -> tuple[Terms | None, list[Check]]:
    """The terms in the file, if there is one that can be read, and what the site's policy says to them."""
    from common.errors import FedMedError
    from common.terms_file import load_terms_toml
    from site_agent.app.doctor import failed, judge_run, skipped

    if terms_file is None:
        return None, [skipped("terms", "none were named (--terms); memory is estimated for the default ones")]
    try:
        run = load_terms_toml(terms_file)
    except FedMedError as error:
        return None, [failed("terms", error.message, "ask the operator for the file that the run is made of")]
    return run, [judge_run(run, policy) if policy else skipped("terms", "the policy cannot be read")]


def _memory_checks(config: SiteConfig, run: Terms | None, policy: SitePolicy | None) -> Iterator[Check]:
    from common.terms import TrainingTerms
    from site_agent.adapters import machine_checks
    from site_agent.app.doctor import lora_here

    lora, training = lora_here(run, policy), run.training if run else TrainingTerms()
    on_gpu, on_cpu = (
        machine_checks.estimate_for(Path(config.base_model.location), lora, training, is_on_gpu=is_on_gpu)
        for is_on_gpu in (True, False)
    )
    gpu, gpu_memory = machine_checks.check_gpu(config.trainer.device, on_gpu)
    yield from (gpu, gpu_memory, machine_checks.check_memory(gpu, on_cpu))


def _link_checks(config: SiteConfig) -> Iterator[Check]:
    from urllib.parse import urlsplit

    from common.clock import SystemClock
    from common.errors import FedMedError
    from site_agent.adapters import link_probe
    from site_agent.adapters.identity_files import read_identity
    from site_agent.app.doctor import CheckState, failed, judge_expiry, ok

    address, now = config.coordinator.address, SystemClock().now()
    host = address.rpartition(":")[0].strip("[]")
    proxy = link_probe.proxy_for(host)
    yield ok("proxy", f"connections go through {urlsplit(proxy).hostname}" if proxy else "none is set for this host")
    try:
        who = read_identity(config.identity.folder)
    except FedMedError as error:
        yield failed("certificate", error.message, "put the operator's identity folder there, the key with mode 600")
        yield from (link_probe.not_looked(name, "certificate") for name in ("policy", "coordinator", "clock"))
        return
    yield judge_expiry(who.valid_from, who.expires_at, now, who.caller.uri)
    yield _policy_check(config, who)
    named = link_probe.check_name(urlsplit(proxy).hostname or "" if proxy else host)
    yield named
    if named.state is CheckState.FAILED:
        yield from (link_probe.not_looked(name, "dns") for name in ("connection", "tls", "coordinator", "clock"))
        return
    reached, opened = link_probe.connect(address, proxy)
    yield reached
    if opened is None:
        yield from (link_probe.not_looked(name, "connection") for name in ("tls", "coordinator", "clock"))
        return
    name = config.coordinator.server_name or host
    secured = link_probe.check_tls(opened, config.identity.folder, who.identity.trust_bundle_pem, name, now)
    yield secured
    if secured.state is CheckState.FAILED:
        yield from (link_probe.not_looked(each, "tls") for each in ("coordinator", "clock"))
        return
    yield from _asked(config, who)


def _policy_check(config: SiteConfig, who: CertifiedIdentity) -> Check:
    from common.errors import FedMedError
    from site_agent.app.doctor import failed, ok
    from site_agent.wiring import policy_of

    try:
        policy_of(config, who)
    except FedMedError as error:
        return failed("policy", error.message, "correct it; `fedmed-site policy check` checks the file alone")
    return ok("policy", str(config.policy.file or "none is written down: that of the configuration"))


def _asked(config: SiteConfig, who: CertifiedIdentity) -> list[Check]:
    """What the coordinator says to this site, over the recorded channel like everything that leaves."""
    import asyncio

    from common.errors import FedMedError, Reason
    from site_agent.app.doctor import failed, judge_skew, ok, skipped
    from site_agent.wiring import ask_time

    try:
        before, there, after = asyncio.run(ask_time(config, who))
    except FedMedError as error:
        if error.reason is Reason.INTERNAL and "UNIMPLEMENTED" in error.message:
            reached = ok("coordinator", "answers this site; it is of an earlier version")
            return [reached, skipped("clock", "a coordinator of an earlier version does not tell its time")]
        remedy = "ask the operator whether this site is admitted" if not error.retryable else "try again in a minute"
        problem = failed("coordinator", f"{error.reason}: {error.message}", remedy)
        return [problem, skipped("clock", "the coordinator did not answer")]
    return [ok("coordinator", "answers this site"), judge_skew(before, there, after)]


def _print(checks: list[Check], *, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    for check in checks:
        typer.echo(f"{check.state:>7} {check.name}: {check.detail}")
        if check.remedy:
            typer.echo(f"        what to do: {check.remedy}")
