"""What people at the site saw of runs and said to them: two small files for each terms' digest, in the state folder.

``STATE_DIR/approvals/HEX.terms.json`` is written by the agent when the terms are offered, ``HEX.verdict.json`` by the
command of a person; neither writes the other's, so neither needs a lock. Each is there whole or not at all, and for its
owner alone. It decides nothing.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import InputInvalidError
from common.files import make_folder, read_private, write_whole
from common.ids import Digest, check_digest
from common.terms import Terms
from site_agent.app.ports import UnreadableVerdict, Verdict

TERMS_SUFFIX, VERDICT_SUFFIX = ".terms.json", ".verdict.json"
# Terms that nobody decided on, oldest first to go: a coordinator that makes up new ones must not fill the disk.
MAX_UNDECIDED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Terms that were offered to this site, and since when it knows them."""

    terms: Terms
    first_seen_at: datetime


_OFFER = TypeAdapter(Offer)
_VERDICT = TypeAdapter(Verdict)


class ApprovalFolder:
    """The `Approvals` port on a folder; the commands of people use it too."""

    def __init__(self, state_folder: Path) -> None:
        self._root = state_folder.resolve() / "approvals"

    def show(self, terms: Terms, at: datetime) -> None:
        """See the port."""
        if self.offer(terms.digest) is not None:
            return
        make_folder(self._root, 0o700)
        offer = Offer(terms=terms, first_seen_at=at)
        write_whole(self._path(terms.digest, TERMS_SUFFIX), _OFFER.dump_json(offer), 0o600)
        for past in [each for each in self.offers() if self.verdict(each.terms.digest) is None][:-MAX_UNDECIDED]:
            self._path(past.terms.digest, TERMS_SUFFIX).unlink()

    def verdict(self, terms_digest: Digest) -> Verdict | UnreadableVerdict | None:
        """See the port. A file that others may write, or that cannot be read, is neither a yes nor nothing."""
        path = self._path(terms_digest, VERDICT_SUFFIX)
        try:
            return _VERDICT.validate_json(read_private(path))
        except FileNotFoundError:
            return None
        except InputInvalidError as error:
            return UnreadableVerdict(detail=error.message)
        except ValidationError:
            return UnreadableVerdict(
                detail=f"{path}: expected a verdict; say it again (fedmed-site approve or decline)"
            )
        except OSError as error:
            return UnreadableVerdict(detail=f"{path}: {error.strerror or type(error).__name__}")

    def decide(self, terms_digest: Digest, verdict: Verdict) -> None:
        """Keep what a person said; an earlier verdict is replaced."""
        make_folder(self._root, 0o700)
        write_whole(self._path(terms_digest, VERDICT_SUFFIX), _VERDICT.dump_json(verdict), 0o600)

    def offer(self, terms_digest: Digest) -> Offer | None:
        """The terms of that digest, if they were offered here; what stands in the file must be those very terms."""
        try:
            offer = _OFFER.validate_json(read_private(self._path(terms_digest, TERMS_SUFFIX)))
        except (FileNotFoundError, ValidationError, InputInvalidError):
            return None
        return offer if offer.terms.digest == terms_digest else None

    def offers(self) -> list[Offer]:
        """Everything that was offered, oldest first."""
        digests = [f"sha256:{path.name.removesuffix(TERMS_SUFFIX)}" for path in self._files()]
        known = [self.offer(Digest(digest)) for digest in digests if _is_digest(digest)]
        return sorted((each for each in known if each is not None), key=lambda each: each.first_seen_at)

    def _files(self) -> list[Path]:
        """The files of terms; none before the first was offered."""
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if path.name.endswith(TERMS_SUFFIX)]

    def _path(self, terms_digest: Digest, suffix: str) -> Path:
        return self._root / (terms_digest.removeprefix("sha256:") + suffix)


def person() -> str:
    """Who decides, as the operating system knows it; ``alice as fedmed`` when alice became another user for it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        name = f"user {os.getuid()}"
    before = os.environ.get("SUDO_USER", name)
    return name if before == name else f"{before} as {name}"


def _is_digest(value: str) -> bool:
    try:
        check_digest(value, "digest")
    except InputInvalidError:
        return False
    return True
