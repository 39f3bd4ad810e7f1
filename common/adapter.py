"""What an adapter is: the names, shapes and dtype of its LoRA factors, and a digest over them. Holds no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from math import prod

from common.errors import InputInvalidError, Reason
from common.ids import Digest, digest_of

# Bounds on what a peer may claim; far above any published LoRA adapter (Llama-3.1-405B, all linear: 1,764 tensors).
MAX_TENSORS = 20_000
MAX_NAME_LENGTH = 256
MAX_DIMENSION = 2**20
# 8.6 GB in bfloat16: Llama-3.1-405B, all linear, with a rank of 100.
MAX_PARAMETERS = 2**32
MAX_LORA_RANK = 1024
A_SUFFIX = ".lora_A.weight"
B_SUFFIX = ".lora_B.weight"


class WireDtype(StrEnum):
    """The dtypes in which factors travel; the names are safetensors' own, in lower case."""

    BF16 = "bf16"
    F32 = "f32"

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return 2 if self is WireDtype.BF16 else 4


class FactorSet(StrEnum):
    """Which factors of every module are trained, or travel."""

    A_AND_B = "a_and_b"
    A_ONLY = "a_only"
    B_ONLY = "b_only"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TensorSpec:
    """One tensor by name and shape, e.g. ``(lora_rank, in_features)`` for a factor A."""

    name: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Count of numbers."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """A LoRA adapter's shape, in peft's own names.

    Attributes:
        lora_rank: r of every module.
        lora_alpha: The scale is ``lora_alpha / lora_rank``.
        target_modules: Names as peft takes them, sorted.
        dtype: In which the factors travel and are published.
        tensors: Sorted by name; each module has a ``.lora_A.weight`` ``(r, in)`` and a ``.lora_B.weight`` ``(out, r)``.
    """

    lora_rank: int
    lora_alpha: int
    target_modules: tuple[str, ...]
    dtype: WireDtype
    tensors: tuple[TensorSpec, ...]

    @property
    def parameters(self) -> int:
        """Count of numbers in all factors."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def data_bytes(self) -> int:
        """Bytes of all factors, without the file's header."""
        return self.parameters * self.dtype.item_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """All tensor names, sorted."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted modules, sorted: the tensor names without the factor's suffix."""
        return tuple(sorted(name.removesuffix(A_SUFFIX) for name in self.names if name.endswith(A_SUFFIX)))

    def tensors_of(self, factors: FactorSet) -> tuple[TensorSpec, ...]:
        """The tensors of those factors, sorted by name."""
        match factors:
            case FactorSet.A_AND_B:
                return self.tensors
            case FactorSet.A_ONLY:
                return tuple(tensor for tensor in self.tensors if tensor.name.endswith(A_SUFFIX))
            case FactorSet.B_ONLY:
                return tuple(tensor for tensor in self.tensors if tensor.name.endswith(B_SUFFIX))

    def at_rank(self, lora_rank: int) -> AdapterSpec:
        """The same modules at another rank, and so at another scale, ``lora_alpha / lora_rank``."""
        return self if lora_rank == self.lora_rank else _at_rank(self, lora_rank)

    @property
    def digest(self) -> Digest:
        """SHA-256 over the canonical JSON of this specification."""
        return _digest_of(self)


@lru_cache(maxsize=16)
def _at_rank(spec: AdapterSpec, lora_rank: int) -> AdapterSpec:
    shapes = {
        tensor.name: (lora_rank, tensor.shape[1]) if tensor.name.endswith(A_SUFFIX) else (tensor.shape[0], lora_rank)
        for tensor in spec.tensors
    }
    tensors = tuple(TensorSpec(name=name, shape=shape) for name, shape in shapes.items())
    return replace(spec, lora_rank=lora_rank, tensors=tensors)


@lru_cache(maxsize=16)  # each reference to an adapter in each report asks for it; few, for a specification may be large
def _digest_of(spec: AdapterSpec) -> Digest:
    document = {
        "lora_rank": spec.lora_rank,
        "lora_alpha": spec.lora_alpha,
        "target_modules": list(spec.target_modules),
        "dtype": str(spec.dtype),
        "tensors": [[tensor.name, list(tensor.shape)] for tensor in spec.tensors],
    }
    return digest_of(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def check_spec(spec: AdapterSpec) -> AdapterSpec:
    """Return ``spec`` if it describes a LoRA adapter and keeps the bounds of this module.

    Raises:
        InputInvalidError: SPEC_INVALID, with the first thing that is wrong.
    """
    problem = _problem(spec)
    if problem:
        raise InputInvalidError(Reason.SPEC_INVALID, problem)
    return spec


def _problem(spec: AdapterSpec) -> str | None:
    if not 1 <= spec.lora_rank <= MAX_LORA_RANK:
        return f"lora_rank: expected 1 to {MAX_LORA_RANK}, got {spec.lora_rank}"
    if spec.lora_alpha < 1:
        return f"lora_alpha: expected at least 1, got {spec.lora_alpha}"
    if not 2 <= len(spec.tensors) <= MAX_TENSORS:
        return f"tensors: expected 2 to {MAX_TENSORS}, got {len(spec.tensors)}"
    if list(spec.names) != sorted(set(spec.names)):
        return "tensors: expected distinct names in sorted order"
    shapes = {tensor.name: tensor.shape for tensor in spec.tensors}
    for tensor in spec.tensors:
        problem = _tensor_problem(tensor, spec.lora_rank, shapes)
        if problem:
            return problem
    if spec.parameters > MAX_PARAMETERS:
        return f"tensors: expected at most {MAX_PARAMETERS} parameters in all, got {spec.parameters}"
    for a, b in zip(spec.names[::2], spec.names[1::2], strict=True):
        if a.removesuffix(A_SUFFIX) + B_SUFFIX != b:
            return f"tensors: expected each factor A to be followed by its B, got {a!r} and {b!r}"
    return None


def _tensor_problem(tensor: TensorSpec, lora_rank: int, shapes: dict[str, tuple[int, ...]]) -> str | None:
    name = tensor.name[:MAX_NAME_LENGTH]
    if len(tensor.name) > MAX_NAME_LENGTH or not tensor.name.isprintable() or not tensor.name.isascii():
        return f"tensor name: expected at most {MAX_NAME_LENGTH} printable ASCII characters, got {name!r}"
    if not tensor.name.endswith((A_SUFFIX, B_SUFFIX)):
        return f"tensor {name!r}: expected a name that ends in {A_SUFFIX} or {B_SUFFIX}"
    is_a = tensor.name.endswith(A_SUFFIX)
    partner = tensor.name.removesuffix(A_SUFFIX) + B_SUFFIX if is_a else tensor.name.removesuffix(B_SUFFIX) + A_SUFFIX
    if partner not in shapes:
        return f"tensor {name!r}: its other factor is missing"
    if len(tensor.shape) != 2 or not all(1 <= size <= MAX_DIMENSION for size in tensor.shape):
        return f"tensor {name!r}: expected two dimensions of 1 to {MAX_DIMENSION}, got {list(tensor.shape)[:8]}"
    rank = tensor.shape[0] if is_a else tensor.shape[1]
    if rank != lora_rank:
        return f"tensor {name!r}: expected rank {lora_rank}, got shape {list(tensor.shape)}"
    return None
