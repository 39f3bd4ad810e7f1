from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from common.errors import InputInvalidError, Reason
from common.logging import AllowListError, configure_logging, get_logger, log_fault

# What must never be found in a log, however it gets near one.
TEXT = "seventy-year-old man with chest pain"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    state = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = state
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    structlog.reset_defaults()


def events(capsys: Capture) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert TEXT not in captured.err
    return [json.loads(line) for line in captured.err.splitlines()]


def event(capsys: Capture) -> dict[str, Any]:
    (only,) = events(capsys)
    return only


def fail() -> None:
    raise KeyError(TEXT)


def test_an_event_is_one_json_line_with_its_fields(capsys: Capture) -> None:
    configure_logging(strict=True)
    get_logger("tests").info("round_phase", run_name="demo", round_number=2, weight=0.5, sites=["north"])
    found = event(capsys)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "level": "info",
        "event": "round_phase",
        "module": "tests",
        "run_name": "demo",
        "round_number": 2,
        "weight": 0.5,
        "sites": ["north"],
    }


def test_a_field_outside_the_allow_list_fails_in_strict_mode() -> None:
    configure_logging(strict=True)
    with pytest.raises(AllowListError, match="note") as caught:
        get_logger("tests").info("example_read", note=TEXT)
    assert TEXT not in str(caught.value)


@pytest.mark.parametrize("value", [TEXT + "\n", "x" * 201, ["x" * 201], {"a": 1}, [0] * 101, object(), b"bytes"])
def test_an_allowed_field_with_anything_but_a_short_plain_value_fails_in_strict_mode(value: object) -> None:
    configure_logging(strict=True)
    with pytest.raises(AllowListError, match="reason"):
        get_logger("tests").info("update_refused", reason=value)


@pytest.mark.parametrize("name", [TEXT, "Round", "round-1", "", "r" * 81])
def test_an_event_name_that_is_not_a_constant_fails_in_strict_mode(name: str) -> None:
    configure_logging(strict=True)
    with pytest.raises(AllowListError) as caught:
        get_logger("tests").info(name)
    assert TEXT not in str(caught.value)


def test_in_production_the_field_is_dropped_and_named_and_the_event_kept(capsys: Capture) -> None:
    configure_logging(strict=False)
    get_logger("tests").info("example_read", note=TEXT, count=3)
    found = event(capsys)
    assert (found["event"], found["count"], found["dropped_fields"]) == ("example_read", 3, ["note"])


def test_in_production_an_event_name_made_of_text_is_replaced(capsys: Capture) -> None:
    configure_logging(strict=False)
    get_logger("tests").info(TEXT)
    assert event(capsys)["event"] == "event_name_invalid"


def test_a_fault_is_logged_by_types_and_frames_under_the_id_that_is_returned(capsys: Capture) -> None:
    configure_logging(strict=True)
    try:
        try:
            fail()
        except KeyError as cause:
            raise RuntimeError(TEXT) from cause
    except RuntimeError as error:
        error_id = log_fault(get_logger("tests"), "rpc_failed", error, rpc="UploadUpdate")
    found = event(capsys)
    assert (found["error_id"], found["rpc"], found["level"]) == (error_id, "UploadUpdate", "error")
    assert (found["error_type"], found["error_causes"]) == ("RuntimeError", ["KeyError"])
    assert found["error_frames"][-1].startswith("unit/test_common_logging.py:")


def test_an_exception_of_ours_brings_its_reason(capsys: Capture) -> None:
    configure_logging(strict=True)
    log_fault(get_logger("tests"), "rpc_failed", InputInvalidError(Reason.FIELD_INVALID, TEXT))
    assert event(capsys)["reason"] == "FIELD_INVALID"


def test_exc_info_in_an_except_block_is_described_too(capsys: Capture) -> None:
    configure_logging(strict=True)
    try:
        fail()
    except KeyError:
        get_logger("tests").exception("trainer_failed")
    assert event(capsys)["error_type"] == "KeyError"


def test_a_level_below_the_least_is_not_written(capsys: Capture) -> None:
    configure_logging(level="warning", strict=True)
    get_logger("tests").info("round_phase")
    assert events(capsys) == []


@pytest.mark.parametrize("library", ["grpc", "sqlalchemy.engine", "some.library"])
def test_a_library_is_heard_without_its_words_and_only_from_warnings_on(capsys: Capture, library: str) -> None:
    configure_logging(level="DEBUG", strict=True)
    logging.getLogger(library).info("said %s", TEXT)
    logging.getLogger(library).warning("said %s", TEXT)
    found = event(capsys)
    assert (found["event"], found["library"], found["level"]) == ("library_message", library, "warning")


def by_logged_exception() -> None:
    try:
        fail()
    except KeyError:
        logging.getLogger("library").exception(TEXT)


def by_warning() -> None:
    warnings.warn(TEXT, stacklevel=1)


def by_hook() -> None:
    try:
        fail()
    except KeyError as error:
        sys.excepthook(KeyError, error, error.__traceback__)


def by_thread() -> None:
    thread = threading.Thread(target=fail, name=TEXT)
    thread.start()
    thread.join()


def by_finaliser() -> None:
    class Failing:
        def __del__(self) -> None:
            fail()

    Failing()
    gc.collect()


def by_lost_task() -> None:
    async def lose() -> None:
        async def failing() -> None:
            fail()

        task = asyncio.ensure_future(failing(), loop=asyncio.get_running_loop())
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(lose())


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("happen", [by_logged_exception, by_warning, by_hook, by_thread, by_finaliser, by_lost_task])
def test_no_way_out_of_the_process_carries_text(capsys: Capture, happen: Callable[[], None]) -> None:
    configure_logging(strict=True)
    happen()
    found = event(capsys)
    assert found["event"] in {"library_message", "uncaught_exception", "unraisable_exception"}


def test_an_interrupt_from_the_keyboard_is_no_fault(capsys: Capture) -> None:
    configure_logging(strict=True)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert events(capsys) == []
