"""Texts through an encoder to entities: split into sentences, words labelled, labels read. It does not score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from lab.encoder.labels import allowed_labels, mentions_of
from lab.encoder.model import Encoder, masked, word_logits
from lab.encoder.words import Window
from site_agent.trainer.extraction.examples import merge_predictions, unlabelled_examples
from site_agent.trainer.extraction.mentions import Mention

_AT_ONCE = 32  # windows: 32 x 512 ids are the most


def find_entities(
    encoder: Encoder,
    texts: Sequence[str],
    entity_types: Sequence[str],
    asked: Collection[str],
    report: Callable[[int], None],
) -> list[tuple[Mention, ...]]:
    """The entities of each text, of the types asked for alone; ``report`` is told how many sentences are done.

    ``entity_types`` are those of the encoder's labels, in their order.
    """
    encoder.model.train(False)
    by_text = [unlabelled_examples(str(number), text) for number, text in enumerate(texts)]
    words = [encoder.pieces.words(example.text) for examples in by_text for example in examples]
    windows = [
        (number, window) for number, one in enumerate(words) for window in encoder.pieces.windows(one, encoder.room)
    ]
    windows.sort(key=lambda one: len(one[1].ids))
    allowed = allowed_labels(entity_types, asked)
    labels: dict[tuple[int, int], int] = {}
    for start in range(0, len(windows), _AT_ONCE):
        group = windows[start : start + _AT_ONCE]
        found = iter(_labels(encoder, [window for _, window in group], allowed))
        for number, window in group:
            labels |= {(number, span.start): next(found) for span in window.words}
        report(min(len(words), start + len(group)))
    said = iter(
        mentions_of([word.span for word in one], [labels[number, word.span.start] for word in one], entity_types)
        for number, one in enumerate(words)
    )
    return [merge_predictions(examples, [next(said) for _ in examples]) for examples in by_text]


def _labels(encoder: Encoder, windows: Sequence[Window], allowed: Sequence[bool]) -> list[int]:
    """The likeliest allowed label of each word."""
    with torch.inference_mode():
        logits = word_logits(encoder, windows)
        chosen: list[int] = masked(logits, torch.tensor(allowed, device=encoder.device)).argmax(dim=1).tolist()
    return chosen
