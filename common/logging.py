"""Structured logs: one JSON line an event on stderr, fields from an allow-list. It is no audit trail.

The allow-list is the privacy guard: a note's text has no field to travel in. An exception is logged by type and
frames, because its message may quote what it failed on; so is whatever a library logs, for the same reason.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import PurePath
from types import TracebackType
from typing import Any, cast

import structlog
from structlog.types import EventDict, FilteringBoundLogger, WrappedLogger

# Names, ids, counts, states and digests; never text of a record, and no free text at all.
ALLOWED_FIELDS = frozenset(
    {
        *("run_name", "run_id", "run_state", "round_number", "assignment_id", "site", "sites", "role", "caller", "rpc"),
        *("kind", "phase", "stage", "outcome", "reason", "is_subset", "weight", "updates", "blobs", "count", "attempt"),
        *("num_examples", "num_label_tokens", "num_passages", "steps", "loss", "strict_f1", "lenient_f1"),
        *("relation_strict_f1", "relation_lenient_f1"),
        *(
            "num_left_out",
            "padding_share",
            "peak_memory_bytes",
            "malformed_answers",
            "is_unscored",
            "is_weighed_by_size",
        ),
        *("tokens_per_second", "seconds", "wait_seconds", "expires_at", "terms_digest", "consortium", "command_id"),
        *("listen_address", "metrics_address", "address"),
        *("error_id", "error_type", "error_frames", "error_causes", "library", "location"),
    }
)
Logger = FilteringBoundLogger

_ALWAYS_FIELDS = ("event", "level", "module", "timestamp")
_EVENT = re.compile(r"[a-z][a-z0-9_.]{0,79}")
_MAX_TEXT = 200
_MAX_ITEMS = 100
_MAX_FRAMES = 30


class AllowListError(Exception):
    """A log call with an event or a field that the allow-list does not know; only in strict mode."""


def configure_logging(level: str = "INFO", strict: bool = False) -> None:
    """Send this process's events, and what its libraries and last-resort hooks say, to stderr as JSON lines.

    Args:
        level: Least level that is written; libraries are written from WARNING on.
        strict: Raise AllowListError for what the allow-list does not know, as tests do; otherwise drop it and name
            it in ``dropped_fields``.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _describe_exception,
            _allow_list(strict),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        handlers=[_LibraryRecords(level=max(least, logging.WARNING))], level=logging.WARNING, force=True
    )
    logging.captureWarnings(True)
    _install_hooks()


def get_logger(name: str) -> Logger:
    """The logger of the module ``name``; call it with a constant event name and allowed fields."""
    return cast(Logger, structlog.get_logger(module=name))


def new_error_id() -> str:
    """An id that a peer or a person is told instead of a cause."""
    return secrets.token_hex(6)


def log_fault(logger: Logger, event: str, error: BaseException, **fields: object) -> str:
    """Log an unexpected ``error`` by type and frames, and return the id under which it stands in the log."""
    error_id = new_error_id()
    logger.error(event, exc_info=error, error_id=error_id, **fields)
    return error_id


def _allow_list(strict: bool) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    def keep_allowed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        name = str(event["event"])
        dropped = sorted(key for key in event if key not in _ALWAYS_FIELDS and not _is_allowed(key, event[key]))
        is_constant = _EVENT.fullmatch(name) is not None
        if strict and (dropped or not is_constant):
            raise AllowListError(f"event {name if is_constant else 'not a constant name'}, fields {dropped}")
        first = {key: event[key] for key in ("timestamp", "level") if key in event}
        first["event"] = name if is_constant else "event_name_invalid"
        kept: EventDict = first | {key: value for key, value in event.items() if key not in {*dropped, *first}}
        if dropped:
            kept["dropped_fields"] = [key[:_MAX_TEXT] for key in dropped]
        return kept

    return keep_allowed


def _is_allowed(key: str, value: object) -> bool:
    return key in ALLOWED_FIELDS and _is_plain(value)


def _is_plain(value: object) -> bool:
    match value:
        case None | bool() | int() | float():
            return True
        case str():
            return len(value) <= _MAX_TEXT and value.isprintable()
        case list() | tuple():
            return len(value) <= _MAX_ITEMS and all(_is_plain(item) for item in value)
        case _:
            return False


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    return event if error is None else {"error_id": new_error_id(), **event, **describe_error(error)}


def describe_error(error: BaseException) -> dict[str, object]:
    """Type, causes and frames of ``error`` as allowed fields; never its message."""
    frames = [
        f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno}:{frame.name}"[-_MAX_TEXT:]
        for frame in traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    ]
    causes: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(causes) < _MAX_FRAMES:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    described: dict[str, object] = {"error_type": type(error).__name__, "error_frames": frames, "error_causes": causes}
    reason = getattr(error, "reason", None)
    return {**described, "reason": str(reason)} if reason is not None else described


class _LibraryRecords(logging.Handler):
    """Passes on that a library logged something, and where; not what."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(record.levelno, logging.CRITICAL) // 10 * 10
        location = f"{record.module}:{record.lineno}"
        error = record.exc_info[1] if record.exc_info else None
        get_logger("libraries").log(
            level, "library_message", library=record.name, location=location, exc_info=error or False
        )


def _install_hooks() -> None:
    log = get_logger("process")

    def uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if not isinstance(error, KeyboardInterrupt):
            log_fault(log, "uncaught_exception", error)

    def uncaught_in_thread(args: Any) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            log_fault(log, "uncaught_exception", args.exc_value)

    def unraisable(args: Any) -> None:
        if args.exc_value is not None:
            log_fault(log, "unraisable_exception", args.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable
