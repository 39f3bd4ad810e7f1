"""The BERT that labels words: loaded, saved, and run once over windows. It neither trains nor reads notes.

All of its parameters are trained and travel, in float32; where the device multiplies bfloat16 natively, products are
computed in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import BertForTokenClassification

from common.errors import InputInvalidError, Reason
from common.files import replacing
from lab.encoder.labels import label_count
from lab.encoder.words import Window, WordPieces
from site_agent.trainer.training.base_model import choose_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """An encoder on its device, with its tokenizer.

    Attributes:
        room: How many ids it reads at once.
        dtype: Of its products.
    """

    model: BertForTokenClassification
    pieces: WordPieces
    room: int
    device: torch.device
    dtype: torch.dtype

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All of them, by name."""
        return dict(self.model.named_parameters())


def load_encoder(folder: Path, entity_types: Sequence[str], device: torch.device, seed: int) -> Encoder:
    """The encoder in ``folder`` with a new output layer, which is a function of the seed and the number of types.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE.
    """
    torch.manual_seed(seed)
    try:
        model = BertForTokenClassification.from_pretrained(
            folder,
            num_labels=label_count(entity_types),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message = f"encoder: expected a BERT, got {type(error).__name__}"
        raise InputInvalidError(Reason.BASE_MODEL_UNREADABLE, message) from error
    return Encoder(
        model=model.to(device),  # type: ignore[arg-type]  # its decorator hides what it takes
        pieces=WordPieces(folder),
        room=int(model.config.max_position_embeddings),
        device=device,
        dtype=choose_dtype(device),
    )


def read_parameters(encoder: Encoder, path: Path) -> None:
    """Put the parameters in ``path`` in place of the encoder's.

    Raises:
        InputInvalidError: BASE_MODEL_MISMATCH, when they are not those of such an encoder.
    """
    parameters, tensors = encoder.parameters, load_file(path, device=str(encoder.device))
    shapes = {name: tuple(one.shape) for name, one in parameters.items()}
    got = {name: tuple(one.shape) for name, one in tensors.items()}
    if shapes != got:
        wrong = sorted(name for name in shapes.keys() | got.keys() if shapes.get(name) != got.get(name))
        message = f"encoder: expected parameters of its shapes, got others in {len(wrong)}, such as {wrong[0]}"
        raise InputInvalidError(Reason.BASE_MODEL_MISMATCH, message)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def write_parameters(encoder: Encoder, path: Path) -> None:
    """Write all parameters, in float32; the file appears whole."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in encoder.parameters.items()}
    with replacing(path) as file:
        file.write(save(tensors))


def word_logits(encoder: Encoder, windows: Sequence[Window]) -> Tensor:
    """Logits of every word of the windows, one window after the other, ``(words, labels)``, float32."""
    width = max(len(window.ids) for window in windows)
    rows = [[*window.ids, *[0] * (width - len(window.ids))] for window in windows]
    lengths = torch.tensor([len(window.ids) for window in windows], device=encoder.device)
    mask = torch.arange(width, device=encoder.device)[None, :] < lengths[:, None]
    places = [(row, column) for row, window in enumerate(windows) for column in window.firsts]
    across, along = torch.tensor(places, device=encoder.device).reshape(-1, 2).unbind(dim=1)
    with torch.autocast(encoder.device.type, encoder.dtype, enabled=encoder.dtype is not torch.float32):
        logits: Tensor = encoder.model(torch.tensor(rows, device=encoder.device), attention_mask=mask.long()).logits
    return logits[across, along].float()


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits ``(words, labels)``; those of labels that are not ``allowed`` are out of every softmax and choice."""
    return logits.masked_fill(~allowed, -torch.inf)
