"""Configuration files: TOML checked whole against a pydantic model, every problem in one error. Reads no environment.

Types for fields: :data:`Seconds` (``"30s"``), :data:`ByteSize` (``"64MiB"``), :data:`ListenAddress`
(``"127.0.0.1:9100"``), :data:`LogLevel`, :data:`ConfigPath`, :data:`SecretPath`.
"""

from __future__ import annotations

import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from common.errors import InputInvalidError, Reason

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86_400)}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([A-Za-z]+)", re.ASCII)
_MAX_SHOWN = 60

Model = TypeVar("Model", bound=BaseModel)


def parse_seconds(text: object) -> float:
    """Seconds of a duration such as ``"500ms"``, ``"30s"``, ``"10m"``, ``"1.5h"`` or ``"2d"``.

    Raises:
        ValueError: with what was expected.
    """
    return float(_quantity(text, _SECONDS, "a duration such as '30s', '10m', '2h' or '1d'"))


def parse_bytes(text: object) -> int:
    """Bytes of a size such as ``"512B"``, ``"4KiB"`` or ``"64MiB"``.

    Raises:
        ValueError: with what was expected.
    """
    expected = "a whole number of bytes such as '512B', '64MiB' or '2GiB'"
    size = _quantity(text, {unit: Decimal(count) for unit, count in _BYTES.items()}, expected)
    if size != size.to_integral_value():
        raise ValueError(f"expected {expected}")
    return int(size)


def _quantity(text: object, units: dict[str, Decimal], expected: str) -> Decimal:
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"expected {expected}")
    return Decimal(match[1]) * units[match[2]]


def _from_config_folder(path: Path, info: ValidationInfo) -> Path:
    return info.context["folder"] / path if info.context else path


def _not_the_secret_itself(path: Path) -> Path:
    if "\n" in str(path) or "-----BEGIN" in str(path):
        raise PydanticCustomError("secret_shown", "expected the path of a file that holds the secret, got the secret")
    return path


def _host_and_port(address: str) -> str:
    host, separator, port = address.rpartition(":")
    if address and not (host and separator and port.isdigit() and int(port) < 2**16):
        raise ValueError("expected host:port, or an empty string for nowhere")
    return address


Seconds = Annotated[float, BeforeValidator(parse_seconds)]
ByteSize = Annotated[int, BeforeValidator(parse_bytes)]
ListenAddress = Annotated[str, AfterValidator(_host_and_port)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
# Relative paths are relative to the folder of the configuration file.
ConfigPath = Annotated[Path, AfterValidator(_from_config_folder)]
SecretPath = Annotated[Path, AfterValidator(_not_the_secret_itself), AfterValidator(_from_config_folder)]


def load_toml(path: Path, model: type[Model]) -> Model:
    """The configuration in ``path``. Types are strict, and keys that ``model`` does not have are refused.

    Raises:
        InputInvalidError: CONFIG_INVALID, with all problems, one a line: key path, expected, got.
    """
    return parse_toml(path, read_config(path), model)


def parse_toml(path: Path, content: bytes, model: type[Model]) -> Model:
    """The same of ``content``, which was read from ``path``."""
    document = json.dumps(_tables(path, content), default=str)
    try:
        # As JSON, because strict validation then takes a string for a path or an enum, and no string for a number.
        return model.model_validate_json(document, strict=True, extra="forbid", context={"folder": path.parent})
    except ValidationError as error:
        raise config_invalid(path, problems_of(error)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, not yet checked.

    Raises:
        InputInvalidError: CONFIG_INVALID, with line and column of what is not TOML.
    """
    return _tables(path, read_config(path))


def read_config(path: Path) -> bytes:
    """The bytes of a configuration.

    Raises:
        InputInvalidError: CONFIG_INVALID, it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise config_invalid(path, [str(error.strerror)]) from None


def _tables(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8").replace("\r\n", "\n"))
    except UnicodeDecodeError:
        raise config_invalid(path, ["expected UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise config_invalid(path, [str(error)]) from None


def problems_of(error: ValidationError) -> list[str]:
    """Every problem as ``key.path: expected ..., got ...``."""
    return [_problem(".".join(str(part) for part in each["loc"]), each) for each in error.errors(include_url=False)]


def _problem(key: str, error: Any) -> str:
    match error["type"]:
        case "missing":
            return f"{key}: expected a value, got none"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{key}: unknown key"
        case "secret_shown":
            return f"{key}: {error['msg']}"
        case _:
            expected = error["msg"].removeprefix("Value error, ")
            got = repr(error["input"])
            return f"{key}: {expected}, got {got if len(got) <= _MAX_SHOWN else got[:_MAX_SHOWN] + '...'}"


def config_invalid(path: Path, problems: list[str]) -> InputInvalidError:
    """The error that lists ``problems`` of the file ``path``, one a line."""
    return InputInvalidError(Reason.CONFIG_INVALID, "\n".join([f"{path}:", *(f"  {each}" for each in problems)]))
