"""Terms and adapter specifications as protobuf messages, and back. Other messages are each service's own matter.

The messages have the fields of the values, by name; so one pair of functions translates every one of them, and a
field that only one side has fails a test. Durations are whole nanoseconds on the wire.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from common.adapter import AdapterSpec, check_spec
from common.errors import InputInvalidError, Reason
from common.terms import Terms, check_terms
from fedmedlora.v1 import types_pb2

_NANOS = 1_000_000_000


def terms_to_proto(terms: Terms) -> types_pb2.Terms:
    """The message of these terms.

    Raises:
        InputInvalidError: FIELD_INVALID, for a duration that is not whole nanoseconds: its digest would change.
    """
    message = types_pb2.Terms()
    _fill(message, terms, "terms")
    return message


def terms_from_proto(message: types_pb2.Terms) -> Terms:
    """The terms in ``message``, checked: equal value, equal digest.

    Raises:
        InputInvalidError: FIELD_MISSING or FIELD_INVALID with the field's path, or TERMS_INVALID.
    """
    terms: Terms = _read(Terms, message, "terms")
    return check_terms(terms)


def spec_to_proto(spec: AdapterSpec) -> types_pb2.AdapterSpec:
    """The message of this specification."""
    message = types_pb2.AdapterSpec()
    _fill(message, spec, "adapter_spec")
    return message


def spec_from_proto(message: types_pb2.AdapterSpec) -> AdapterSpec:
    """The specification in ``message``, checked.

    Raises:
        InputInvalidError: FIELD_INVALID with the field's path, or SPEC_INVALID.
    """
    spec: AdapterSpec = _read(AdapterSpec, message, "adapter_spec")
    return check_spec(spec)


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Name and type of each field; of a NewType, the type below it."""
    hints = get_type_hints(kind)
    types = {name: getattr(hint, "__supertype__", hint) for name, hint in hints.items()}
    return tuple((field.name, types[field.name]) for field in dataclasses.fields(kind))


def _optional(kind: Any) -> Any | None:
    """The type that may be absent in ``T | None``; None for any other type."""
    return next(each for each in get_args(kind) if each is not NoneType) if isinstance(kind, UnionType) else None


def _fill(message: Any, value: Any, path: str) -> None:
    kind_of_value: Any = type(value)
    for name, kind in _fields(kind_of_value):
        _fill_field(message, name, kind, getattr(value, name), f"{path}.{name}")


def _fill_field(message: Any, name: str, kind: Any, value: Any, path: str) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    if (present := _optional(kind)) is not None:
        if value is not None:
            _fill_field(message, name, present, value, path)
    elif field.message_type is Duration.DESCRIPTOR:
        getattr(message, name).CopyFrom(_duration(value, path))
    elif get_origin(kind) is tuple and dataclasses.is_dataclass(get_args(kind)[0]):
        for item in value:
            _fill(getattr(message, name).add(), item, path)
    elif get_origin(kind) is tuple:
        getattr(message, name).extend(value)
    elif dataclasses.is_dataclass(kind):
        getattr(message, name).SetInParent()
        _fill(getattr(message, name), value, path)
    elif issubclass(kind, StrEnum):
        setattr(message, name, _numbers(field.enum_type)[value.name])
    else:
        setattr(message, name, value)


def _read(kind: Any, message: Message, path: str) -> Any:
    if len(UnknownFieldSet(message)):
        # Nobody can agree to a setting that it does not know.
        raise InputInvalidError(Reason.FIELD_INVALID, f"{path}: expected no field that this version does not know")
    values = {name: _read_field(message, name, field, f"{path}.{name}") for name, field in _fields(kind)}
    return kind(**values)


def _read_field(message: Any, name: str, kind: Any, path: str) -> Any:
    field = message.DESCRIPTOR.fields_by_name[name]
    if (present := _optional(kind)) is not None:
        return _read_field(message, name, present, path) if message.HasField(name) else None
    if field.has_presence and not message.HasField(name):
        raise InputInvalidError(Reason.FIELD_MISSING, f"{path}: expected a value, got none")
    value = getattr(message, name)
    if field.message_type is Duration.DESCRIPTOR:
        return seconds_from_proto(value, path)
    if get_origin(kind) is tuple and dataclasses.is_dataclass(item := get_args(kind)[0]):
        return tuple(_read(item, part, f"{path}[{index}]") for index, part in enumerate(value))
    if get_origin(kind) is tuple:
        return tuple(value)
    if dataclasses.is_dataclass(kind):
        return _read(kind, value, path)
    if issubclass(kind, StrEnum):
        return _member(kind, field.enum_type, value, path)
    return value


@cache
def _numbers(enum: EnumDescriptor) -> dict[str, int]:
    """Number of each value by its name without the enum's own: ``WIRE_DTYPE_BF16`` of WireDtype is ``BF16``."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix): value.number for value in enum.values}


def _member(kind: type[StrEnum], enum: EnumDescriptor, number: int, path: str) -> StrEnum:
    for member in kind:
        if _numbers(enum)[member.name] == number:
            return member
    expected = ", ".join(member.name for member in kind)
    raise InputInvalidError(Reason.FIELD_INVALID, f"{path}: expected one of {expected}, got number {number}")


def _duration(seconds: float, path: str) -> Duration:
    nanos = round(seconds * _NANOS)
    if nanos / _NANOS != seconds:
        raise InputInvalidError(Reason.FIELD_INVALID, f"{path}: expected whole nanoseconds, got {seconds!r} s")
    return Duration(seconds=nanos // _NANOS, nanos=nanos % _NANOS)


def seconds_from_proto(duration: Duration, path: str) -> float:
    """A duration in seconds.

    Raises:
        InputInvalidError: FIELD_INVALID, when it is negative or no duration at all.
    """
    # The bounds of google.protobuf.Duration, less the negative half, which no deadline needs.
    if not (0 <= duration.seconds <= 315_576_000_000 and 0 <= duration.nanos < _NANOS):
        raise InputInvalidError(
            Reason.FIELD_INVALID, f"{path}: expected 0 s or more, got {duration.seconds} s, {duration.nanos} ns"
        )
    return (duration.seconds * _NANOS + duration.nanos) / _NANOS
