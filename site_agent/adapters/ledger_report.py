"""The egress ledger as one page for people who read no log: HTML that needs nothing else, and prints on one sheet.

It asks no clock and checks nothing: what it is given was checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from common.hash_chain import EMPTY_CHAIN, ChainHead
from site_agent.app.ledger_rows import LedgerRow, Selection, Sum, sums_by_round, sums_by_rpc

# As many rounds as fit on the sheet; the sums above them are of all.
ROUNDS_SHOWN = 8

# What each call is for, in words for the reader; an rpc that is not here is shown by its name alone.
PURPOSES = {
    "AwaitAssignment": "asks whether there is work",
    "Check": "asks whether the coordinator is there",
    "DeclineAssignment": "says no to work, with a reason from a fixed list",
    "DownloadAdapter": "fetches the shared adapter",
    "Enrol": "becomes a member: a join token, public keys",
    "GetServerTime": "asks for the coordinator's time",
    "GetUploadOffset": "asks how much of an update has arrived",
    "ListAdapterVersions": "asks which adapters were published",
    "RenewCertificate": "asks for its next certificate: public keys",
    "ReportEvaluation": "gives scores: counts and a mean loss",
    "ReportProgress": "tells how far training is: numbers",
    "UploadUpdate": "sends a trained update: tensors and counts",
    "Withdraw": "ends the membership",
}

_STYLE = """
@page { size: A4; margin: 14mm }
body { font: 9.5pt/1.35 system-ui, sans-serif; color: #1a1a1a; max-width: 182mm; margin: 4mm auto; padding: 0 4mm }
h1 { font-size: 18pt; margin: 0 } h2 { font-size: 11pt; margin: 4mm 0 1.5mm }
p { margin: 1.5mm 0 } .period { color: #555 }
.facts { display: flex; gap: 4mm; margin: 3mm 0 } .facts div { flex: 1; border: 1px solid #bbb; padding: 2mm }
.facts strong { display: block; font-size: 14pt }
table { border-collapse: collapse; width: 100%; font-size: 9pt }
th, td { text-align: left; padding: 0.7mm 2mm; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 } .n { text-align: right; white-space: nowrap }
code { font: 8pt ui-monospace, monospace; overflow-wrap: anywhere }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What stands over the tables.

    Attributes:
        site: As the site's certificate names it, or a name of its own.
        made_at: When the report was made.
        mended: How often a program was killed while it wrote.
    """

    site: str
    made_at: datetime
    selection: Selection
    start: ChainHead
    head: ChainHead
    mended: int


def report(rows: Iterable[LedgerRow], facts: ReportFacts) -> str:
    """The page. ``rows`` are those of the selection."""
    kept = list(rows)
    by_rpc, by_round = sums_by_rpc(kept), sums_by_round(kept)
    total = Sum()
    for row in kept:
        total.add(row)
    parts = [
        f"<h1>What left {escape(facts.site)}</h1>",
        f'<p class="period">{escape(_period(kept, facts))}</p>',
        _facts(total, by_round),
        "<h2>By kind of message</h2>",
        _table(("message", "count", "bytes", "what it held"), [_rpc_cells(*item) for item in by_rpc.items()]),
        "<h2>By run and round</h2>",
        _rounds(by_round),
        "<h2>What is not in it</h2>",
        "<p>No message has a field for text of a note, a file name or a patient's anything. What a tensor can tell "
        "about the notes that it was trained on is described in the hospital's manual.</p>",
        "<h2>How to check this page</h2>",
        *(f"<p>{paragraph}</p>" for paragraph in _checking(total, facts)),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>What left {escape(facts.site)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _period(rows: Sequence[LedgerRow], facts: ReportFacts) -> str:
    run = f" of the run {facts.selection.run}" if facts.selection.run else ""
    made = f"Made on {_minute(facts.made_at)}."
    if not rows:
        return f"Nothing{run} left in this time. {made}"
    first, last = min(row.first_at for row in rows), max(row.last_at for row in rows)
    return f"Every message{run} from {_minute(first)} to {_minute(last)}. {made}"


def _facts(total: Sum, by_round: dict[tuple[str, int], Sum]) -> str:
    facts = {
        "messages": f"{total.messages:,}",
        "in all": _size(total.size_bytes),
        "files of tensors": f"{len(total.files):,}",
        "rounds": f"{len(by_round):,}",
    }
    cells = "".join(f"<div><strong>{escape(value)}</strong>{escape(name)}</div>" for name, value in facts.items())
    return f'<div class="facts">{cells}</div>'


def _rpc_cells(rpc: str, each: Sum) -> tuple[str, ...]:
    purpose = PURPOSES.get(rpc, "")
    held = ", ".join(sorted({name.rpartition(".")[2] for name in each.fields})) or "nothing"
    files = f"<br>and {len(each.files):,} files of {each.tensors:,} tensors" if each.files else ""
    name = f"<strong>{escape(rpc)}</strong>" + (f"<br>{escape(purpose)}" if purpose else "")
    return (name, f"{each.messages:,}", _size(each.size_bytes), f"<code>{escape(held)}</code>{files}")


def _rounds(by_round: dict[tuple[str, int], Sum]) -> str:
    if not by_round:
        return "<p>No message belonged to a round.</p>"
    shown = list(by_round.items())[-ROUNDS_SHOWN:]
    rows = [
        (escape(run), f"{number}", f"{each.messages:,}", _size(each.size_bytes), _digests(each))
        for (run, number), each in shown
    ]
    left = len(by_round) - len(shown)
    more = f"<p>{left:,} earlier rounds are in the sums above, and in the export.</p>" if left else ""
    return _table(("run", "round", "messages", "bytes", "files of tensors (SHA-256, first 16 digits)"), rows) + more


def _digests(each: Sum) -> str:
    short = (digest.removeprefix("sha256:")[:16] for digest in sorted(each.files))
    return f"<code>{escape(', '.join(short))}</code>"


def _checking(total: Sum, facts: ReportFacts) -> list[str]:
    head = escape(str(facts.head))
    texts = [
        "Each entry of the ledger carries the SHA-256 of the entry before it, and each message was written down before "
        "it was sent. The chain was checked when this page was made; whoever keeps this page can check later that "
        f"nothing up to here was changed: <code>fedmed-site ledger verify --head {head} --config site.toml</code>"
    ]
    if facts.start != EMPTY_CHAIN:
        texts.append(
            f"The ledger that was read begins after entry {facts.start.sequence:,}; earlier files are elsewhere."
        )
    if total.unknown:
        texts.append(
            f"Messages of which it is not known whether they left: {total.unknown:,}. The program ended, or lost the "
            "connection, before it heard an answer. They are counted as if they had."
        )
    if facts.mended:
        texts.append(
            f"A program was killed {facts.mended:,} times while it wrote an entry; those messages did not leave."
        )
    return texts


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    is_number = [name in ("count", "bytes", "round", "messages") for name in names]
    head = "".join(_cell("th", escape(name), number) for name, number in zip(names, is_number, strict=True))
    body = "".join(
        f"<tr>{''.join(_cell('td', cell, number) for cell, number in zip(row, is_number, strict=True))}</tr>\n"
        for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _cell(tag: str, content: str, is_number: bool) -> str:
    kind = ' class="n"' if is_number else ""
    return f"<{tag}{kind}>{content}</{tag}>"


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")


def _size(count: int) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
