"""``python -m site_agent.trainer.predict``: notes and an adapter in, entities and relations with offsets out.

What ``fedmed-site extract`` runs as a child process. Its output is for whoever may read the notes; it logs none of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import FedMedError, InputInvalidError, Reason
from common.label_schema import check_entity_types, check_relation_types
from common.peft_folder import WEIGHTS_FILE
from common.terms import PromptForm, Quantization, TaskTerms, TrainingTerms
from site_agent.trainer.adapter_folder import read_lora, read_terms
from site_agent.trainer.base_model_files import check_base_model, resolve_base_model
from site_agent.trainer.extraction.notes import Note, read_notes
from site_agent.trainer.extraction.relations import all_roles
from site_agent.trainer.extraction.render import Findings, to_json, to_standoff
from site_agent.trainer.quiet import quiet_libraries

_RENDERERS = {"json": (to_json, ".json"), "brat": (to_standoff, ".ann")}


def extract(
    base_model: str,
    adapter: Path,
    notes: Sequence[Note],
    task: TaskTerms | None = None,
    device: str = "auto",
) -> tuple[Findings, ...]:
    """What each note holds: its entities, and then, where relations are a task, what each of these is related to.

    ``base_model`` is a folder or a hub id, and must be the one of the adapter's lineage where there is one; ``task``
    stands in for the lineage's, and is needed where there is none.

    Raises:
        InputInvalidError: BASE_MODEL_MISMATCH, DIGEST_DIFFERS, SETTINGS_UNSUPPORTED and what loading raises.
    """
    folder, terms, lora = resolve_base_model(base_model), read_terms(adapter), read_lora(adapter)
    if terms is not None:
        check_base_model(folder, terms.base_model)
    asked = _checked_task(task or (terms.task if terms else None))
    from site_agent.trainer.training.adapter_files import read_adapter
    from site_agent.trainer.training.answering import Reader, find_entities, find_relations
    from site_agent.trainer.training.base_model import choose_device, load_base_model
    from site_agent.trainer.training.examples import Question
    from site_agent.trainer.training.lora import with_adapter

    place = choose_device(device)
    training = terms.training if terms else TrainingTerms()
    quantization = training.quantization if place.type == "cuda" else Quantization.NONE
    loaded = load_base_model(folder, place, quantization)
    loaded = with_adapter(loaded, lora, read_adapter(adapter / WEIGHTS_FILE))
    reader = Reader(loaded=loaded, max_length=training.max_length, report=lambda done: None)
    texts = [note.text for note in notes]
    entities = find_entities(reader, Question(task=asked, labels=frozenset(asked.entity_types)), texts).entities
    questions = [Question(task=asked, labels=roles, head_type=head) for head, roles in all_roles(asked).items()]
    relations = find_relations(reader, questions, texts, entities).relations
    return tuple(Findings(entities=found, relations=ends) for found, ends in zip(entities, relations, strict=True))


def _checked_task(task: TaskTerms | None) -> TaskTerms:
    if task is None:
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED, "adapter: expected a lineage, or entity types and a prompt form, got neither"
        )
    if task.relations_only:
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED,
            "adapter: expected one that finds entities, whose relations can then be asked for, got relations alone",
        )
    return task


def main() -> int:
    """Write what was found; the exit code of the process."""
    quiet_libraries()
    try:
        _run(_parse())
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    notes = [note for path in options.notes for note in read_notes(path)]
    render, suffix = _RENDERERS[options.format]
    _check_output(notes, options)
    found = extract(options.base_model, options.adapter, notes, _task(options), options.device)
    for note, findings in zip(notes, found, strict=True):
        if options.out is None:
            sys.stdout.write(render(note, findings))
        else:
            (options.out / f"{note.name}{suffix}").write_text(render(note, findings), encoding="utf-8")


def _check_output(notes: Sequence[Note], options: argparse.Namespace) -> None:
    """Before the work, not after it: each note needs a place of its own."""
    names = [note.name for note in notes]
    if options.out is None and options.format == "brat" and len(notes) > 1:
        raise InputInvalidError(Reason.SETTINGS_UNSUPPORTED, "--out: expected a folder for brat files of several notes")
    if options.out is not None:
        if len(set(names)) < len(names):
            raise InputInvalidError(Reason.SETTINGS_UNSUPPORTED, "--out: expected each file name once, got one twice")
        options.out.mkdir(parents=True, exist_ok=True)


def _task(options: argparse.Namespace) -> TaskTerms | None:
    if options.types is None:
        return None
    types = check_entity_types(options.types.split(","))
    relations = check_relation_types(options.relations.split(",")) if options.relations else ()
    return TaskTerms(entity_types=types, prompt_form=PromptForm(options.form), relation_types=relations)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fedmed-site extract",
        description="Find the entities and relations of notes, with character offsets. It runs here and sends nothing.",
    )
    parser.add_argument("notes", nargs="+", type=Path, metavar="NOTES", help="text files, or folders of .txt files")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of `fedmed-site adapter fetch`")
    parser.add_argument("--base-model", required=True, help="the base model's folder, or a hub id in the local cache")
    parser.add_argument("--format", choices=sorted(_RENDERERS), default="json", help="of what is written [%(default)s]")
    parser.add_argument("--out", type=Path, help="folder for a file a note; without it, standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [%(default)s]")
    parser.add_argument("--types", help="for an adapter without a lineage: entity types, separated by commas")
    parser.add_argument("--relations", help="beside --types: relation types, separated by commas; none without it")
    parser.add_argument("--form", choices=[str(form) for form in PromptForm], default=str(PromptForm.JSON),
                        help="beside --types: the form of answers that the adapter learnt [%(default)s]")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
