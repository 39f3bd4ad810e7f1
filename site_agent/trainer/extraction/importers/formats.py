"""The formats that can be imported: how each is read, and which files of a folder are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from site_agent.trainer.extraction.importers.brat import read_brat
from site_agent.trainer.extraction.importers.pubtator import read_pubtator
from site_agent.trainer.extraction.importers.source import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        suffixes: Of the files that are taken where a folder is named.
        companion: Suffix of the file of annotations beside each text; empty where one file has both.
    """

    read: Reader
    suffixes: tuple[str, ...]
    companion: str = ""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "brat": Format(read=read_brat, suffixes=(".txt",), companion=".ann"),
        "pubtator": Format(read=read_pubtator, suffixes=(".pubtator", ".txt")),
    }
)
