"""The formats that can be imported: how each is read, and which files of a folder are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from site_agent.trainer.extraction.importers.bioc import read_bioc_json
from site_agent.trainer.extraction.importers.bioc_xml import read_bioc_xml
from site_agent.trainer.extraction.importers.brat import read_brat
from site_agent.trainer.extraction.importers.conll import read_conll
from site_agent.trainer.extraction.importers.csv_spans import read_csv
from site_agent.trainer.extraction.importers.docbin import read_docbin
from site_agent.trainer.extraction.importers.fhir import read_fhir
from site_agent.trainer.extraction.importers.jsonl_spans import read_jsonl
from site_agent.trainer.extraction.importers.label_studio import read_label_studio
from site_agent.trainer.extraction.importers.phee import read_phee
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
        "bioc-json": Format(read=read_bioc_json, suffixes=(".json",)),
        "bioc-xml": Format(read=read_bioc_xml, suffixes=(".xml",)),
        "brat": Format(read=read_brat, suffixes=(".txt",), companion=".ann"),
        "conll": Format(read=read_conll, suffixes=(".conll", ".bio", ".iob", ".tsv", ".txt")),
        "csv": Format(read=read_csv, suffixes=(".csv", ".tsv")),
        "docbin": Format(read=read_docbin, suffixes=(".spacy",)),
        "fhir": Format(read=read_fhir, suffixes=(".json", ".ndjson")),
        "jsonl": Format(read=read_jsonl, suffixes=(".jsonl",)),
        "label-studio": Format(read=read_label_studio, suffixes=(".json",)),
        "phee": Format(read=read_phee, suffixes=(".json", ".jsonl")),
        "pubtator": Format(read=read_pubtator, suffixes=(".pubtator", ".txt")),
    }
)
