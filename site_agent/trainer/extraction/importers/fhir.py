"""FHIR DocumentReference (R4, R5), note and annotations as two attachments: a resource, a Bundle, or NDJSON.

FHIR has no annotations of spans of its own. So the same document stands there in a second form, for which ``content``
may repeat: beside the attachment ``text/plain`` one of ``text/x-brat`` that holds BRAT standoff, both as ``data``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import replace

from site_agent.trainer.extraction.importers.brat import read_standoff
from site_agent.trainer.extraction.importers.json_values import JsonValue, json_lines, parse_json
from site_agent.trainer.extraction.importers.source import LeftOut, MalformedError, Outcome, Unit, decoded, expect

TEXT, STANDOFF = "text/plain", "text/x-brat"
_KIND = "DocumentReference"


def read_fhir(unit: Unit) -> Iterator[Outcome]:
    """The documents of a file; other resources of a Bundle, such as patients, are counted."""
    try:
        content = decoded(unit.content, unit.name)
        lines = json_lines(content, unit.name) if _is_ndjson(content) else [(content, unit.name)]
        resources = [each for text, where in lines for each in _resources(parse_json(text, where))]
    except MalformedError as error:
        yield error.problem
        return
    for resource in resources:
        try:
            yield _outcome(resource)
        except MalformedError as error:
            yield error.problem


def _is_ndjson(content: str) -> bool:
    """Whether the first line is a whole JSON text."""
    try:
        parse_json(content.lstrip().partition("\n")[0], "")
    except MalformedError:
        return False
    return True


def _resources(top: JsonValue) -> list[JsonValue]:
    if top.get("resourceType").value == "Bundle":
        return [entry.get("resource") for entry in top.get("entry").items()]
    return [top]


def _outcome(resource: JsonValue) -> Outcome:
    if resource.get("resourceType").value != _KIND:
        return LeftOut(what="resources that are no DocumentReference")
    if resource.get("status").value != "current":
        return LeftOut(what="documents that are not current")
    attachments: dict[str, str] = {}
    for content in resource.get("content").items():
        attachment = content.get("attachment")
        kind = attachment.get("contentType").string().partition(";")[0].strip().lower()
        if kind in (TEXT, STANDOFF):
            expect(kind not in attachments, attachment.where, f"expected one attachment {kind}, got two")
            attachments[kind] = _content(attachment)
    for kind in (TEXT, STANDOFF):
        expect(kind in attachments, resource.get("content").where, f"expected an attachment {kind}, got none")
    name = f"{resource.where}, {STANDOFF}"
    document = read_standoff(resource.get("id").name(), attachments[TEXT], attachments[STANDOFF], name)
    subject = resource.get("subject")
    return document if subject.value is None else replace(document, patient=subject.get("reference").optional_name())


def _content(attachment: JsonValue) -> str:
    """The text of an attachment."""
    where = attachment.get("data").where
    try:
        content = base64.b64decode(attachment.get("data").string(), validate=True)
    except (binascii.Error, ValueError):
        content = None
    if content is None:
        raise MalformedError(where, "expected base64, got another string")
    return decoded(content, where)
