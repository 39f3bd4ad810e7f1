"""The site's commands about its policy and its approvals. Each is a few lines over the wiring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from site_agent.app.review import Review
    from site_agent.config import SiteConfig

policy = typer.Typer(no_args_is_help=True, help="What this site takes part in and lets out.")

ConfigFile = Annotated[Path, typer.Option("--config", help="the agent's configuration (TOML)")]
TermsDigest = Annotated[str, typer.Argument(help="the digest of a run's terms, as `review` shows it")]


@policy.command("check")
def check_policy(file: Annotated[Path, typer.Argument(help="the policy (TOML)")]) -> None:
    """Say whether a policy is valid, and everything that is wrong with it."""
    from site_agent.policy_file import load_policy

    written = load_policy(file.absolute(), ("train",), None)
    needed = "not needed" if written.policy.has_standing_approval else "needed for each run"
    typer.echo(f"{file} is valid; a person's approval is {needed}")


def review(config: ConfigFile, as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Show every run offered to this site: its terms in words, the policy's verdict, and what a person said."""
    from site_agent.app import review as words
    from site_agent.wiring import review_runs

    reviews = review_runs(_load(config))
    if as_json:
        typer.echo(words.as_json(reviews))
        return
    typer.echo("\n\n".join(map(words.as_text, reviews)) or "no run was offered to this site yet")


def approve(digest: TermsDigest, config: ConfigFile) -> None:
    """Let this site take part in the run of these terms, as far as its policy does; the agent notices at once."""
    _tell(_decided(config, digest, is_approved=True))


def decline(
    digest: TermsDigest,
    config: ConfigFile,
    reason: Annotated[str, typer.Option(help="why, for the people at this site; it is not sent")] = "",
) -> None:
    """Keep this site out of the run of these terms; what is under way there does not leave."""
    _tell(_decided(config, digest, is_approved=False, because=reason))


def _decided(config: Path, digest: str, *, is_approved: bool, because: str = "") -> Review:
    from site_agent.wiring import decide

    return decide(_load(config), digest, is_approved=is_approved, because=because)


def _tell(reviewed: Review) -> None:
    typer.echo(f"run {reviewed.run}, terms {reviewed.terms_digest}: {reviewed.state}")


def _load(config: Path) -> SiteConfig:
    from common.config import load_toml
    from site_agent.config import SiteConfig

    return load_toml(config.absolute(), SiteConfig)
