"""What a model of the lab predicts on corpora, as offsets without any text: to hold our scores against others'.

The test sets are those that the lab cuts; heads of relations are the gold ones, as where relations are scored. A line a
passage: its corpus, its id, entities as (start, end, type), relations as (type, head, tail). A head is told as its
place among the passage's entities, so that nothing of a corpus's own annotations is in the file.

    python -m benchmarks.predictions --adapter FILE --data CORPORA --json tests/integration/predictions.jsonl
"""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.arguments import whole_number
from common.files import write_whole
from common.terms import LoraTerms, Quantization, Task, TaskTerms
from lab.corpora import Corpora
from lab.experiment import load_experiment, terms_of
from site_agent.trainer.base_model_files import describe_base_model, resolve_base_model
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.training.adapter_files import read_adapter
from site_agent.trainer.training.answering import Reader, find_entities, find_relations
from site_agent.trainer.training.base_model import choose_device, load_base_model
from site_agent.trainer.training.examples import questions_about
from site_agent.trainer.training.lora import with_adapter

MAX_LENGTH = 640


def main() -> None:
    """Predict, and write the file."""
    options = _parse()
    experiment = load_experiment(options.experiment)
    folder = resolve_base_model(options.base_model)
    (arm,) = (arm for arm in experiment.arms if arm.name == options.arm)
    terms = terms_of(experiment, arm, 1, [site.name for site in experiment.sites], describe_base_model(folder, "base"))
    reader = _reader(folder, options.adapter, terms.lora)
    with tempfile.TemporaryDirectory() as cache:
        corpora = Corpora(root=options.data.resolve(), cache=Path(cache))
        names = [*experiment.corpora, *experiment.test.external]
        lines = [line for name in names for line in _predicted(reader, terms.task, corpora, name, options.sentences)]
    write_whole(options.json, "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines).encode())
    print(f"{len(lines)} passages, {sum(len(one['entities']) for one in lines)} entities, "
          f"{sum(len(one['relations']) for one in lines)} relations")  # fmt: skip


def _predicted(
    reader: Reader, task: TaskTerms, corpora: Corpora, name: str, sentences: int
) -> Iterator[dict[str, Any]]:
    passages = read_passages([corpora.test(name, sentences).path])
    texts = [passage.text for passage in passages]
    questions = questions_about(read_passages([corpora.whole_test(name).path]), task, tuple(Task))
    (about_entities,) = (one for one in questions if one.is_of is Task.ENTITIES)
    about_heads = [one for one in questions if one.is_of is Task.RELATIONS]
    entities = find_entities(reader, about_entities, texts).entities
    heads = [[entity.mention for entity in passage.entities] for passage in passages]
    relations = find_relations(reader, about_heads, texts, heads).relations if about_heads else [()] * len(passages)
    for passage, gold, found, ends in zip(passages, heads, entities, relations, strict=True):
        yield {
            "corpus": name,
            "id": passage.id,
            "entities": [_told(one) for one in found],
            "relations": [[one.type, gold.index(one.head), _told(one.tail)] for one in ends],
        }


def _told(mention: Mention) -> list[Any]:
    return [mention.start, mention.end, mention.type]


def _reader(base_model: Path, adapter: Path, lora: LoraTerms) -> Reader:
    loaded = load_base_model(base_model, choose_device("cpu"), Quantization.NONE)
    return Reader(
        loaded=with_adapter(loaded, lora, read_adapter(adapter)), max_length=MAX_LENGTH, report=lambda done: None
    )


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, default=Path("benchmarks/experiments/relations.toml"))
    parser.add_argument("--arm", default="Fed-MedLoRA", help="whose terms the adapter has [%(default)s]")
    parser.add_argument("--adapter", type=Path, required=True, help="its safetensors file, below the lab's --out")
    parser.add_argument("--base-model", default=".cache/smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="folder of annotated corpora")
    parser.add_argument("--sentences", type=whole_number, default=60, help="of each corpus [%(default)s]")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
