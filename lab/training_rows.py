"""What is said of the training in a run: one row a site and round. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lab.findings import Trained
from lab.rounds import Course


def training_rows(arm: str, seed: int, course: Course) -> Iterator[Trained]:
    """Of every update that was accepted."""
    for past in course.run.rounds:
        for entry in past.accepted:
            result = course.trained[past.number, entry.site]
            assert entry.update is not None, "an accepted update is there"
            yield Trained(
                arm=arm,
                seed=seed,
                site=entry.site,
                round_number=past.number,
                mean_loss=result.mean_loss,
                num_examples=result.num_examples,
                num_label_tokens=result.num_label_tokens,
                steps=result.steps,
                seconds=result.seconds,
                weight=entry.weight,
                validation_loss=entry.scores.mean_loss if entry.scores else None,
                upload_bytes=entry.update.file.size_bytes,
                download_bytes=course.downloads[past.number, entry.site],
                lora_rank=entry.lora_rank or course.run.terms.lora.lora_rank,
                is_alone=len(past.roster) == 1,
            )
