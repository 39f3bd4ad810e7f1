"""bfloat16 as unsigned 16-bit integers, which is what it is in a file. Knows no file.

A bfloat16 is the upper half of a float32 (https://arxiv.org/abs/1905.12322, section 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Numbers that go through all steps of a computation before the next ones do, so that they stay in the cache: with
# whole matrices an aggregation takes three times as long.
BLOCK = 2**15


def decode_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 of each bfloat16; exact."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def encode_bf16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The bfloat16 nearest to each value, ties to the even one (IEEE 754-2019, section 4.3.1); NaN stays NaN.

    Correctly rounded for float64 too.
    """
    flat = values.reshape(-1)
    encoded = np.empty(flat.size, dtype=np.uint16)
    for start in range(0, flat.size, BLOCK):
        encoded[start : start + BLOCK] = _encode_block(flat[start : start + BLOCK])
    return encoded.reshape(values.shape)


def _encode_block(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    with np.errstate(over="ignore"):
        singles = np.ascontiguousarray(values, dtype=np.float32)
    bits = singles.view(np.uint32)
    # 0x7fff rounds up above one half, the last kept bit breaks the tie. In place: it is the passes that take time.
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    encoded = rounded.astype(np.uint16)
    if values.dtype != np.float32:
        _mend_false_ties(values, singles, encoded)
    not_numbers = np.isnan(singles)
    if not_numbers.any():
        encoded[not_numbers] = 0x7FC0  # adding to it may have made it something else
    return encoded


def all_finite_bf16(bits: NDArray[np.uint16]) -> bool:
    """Whether none is infinite or NaN: those are the greatest magnitudes of either sign, and so the greatest integers.

    Of the two signs, one is greatest as a signed integer, the other as an unsigned one; a maximum copies nothing.
    """
    return bits.size == 0 or bool(bits.view(np.int16).max() < 0x7F80 and bits.max() < 0xFF80)


def _mend_false_ties(values: NDArray[np.floating], singles: NDArray[np.float32], encoded: NDArray[np.uint16]) -> None:
    """Round those anew whose float32 lies half-way between two bfloat16 only because it was itself rounded to there.

    Everything else is on the same side of the half-way point as its float32, and so was rounded well.
    """
    bits = singles.view(np.uint32)
    at = np.nonzero(bits.astype(np.uint16) == 0x8000)
    wide, single = values[at].astype(np.float64), singles[at].astype(np.float64)
    kept = bits[at] >> np.uint32(16)
    further = (kept + (np.abs(wide) > np.abs(single))).astype(np.uint16)
    encoded[at] = np.where(wide == single, encoded[at], further)
