"""bfloat16 as unsigned 16-bit integers, which is what it is in a file. Knows no file.

A bfloat16 is the upper half of a float32 (https://arxiv.org/abs/1905.12322, section 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def decode_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 of each bfloat16; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_bf16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The bfloat16 nearest to each value, ties to the even one (IEEE 754-2019, section 4.3.1); NaN stays NaN.

    Correctly rounded for float64 too: rounding to float32 first, and then again, would move some ties.
    """
    bits = _to_odd_float32(values).view(np.uint32)
    is_nan = np.isnan(values)
    # 0x7fff rounds up above one half, the last kept bit breaks the tie; masked first, so a NaN's sum cannot wrap.
    rounded = np.where(is_nan, np.uint32(0), bits)
    rounded = (rounded + np.uint32(0x7FFF) + ((rounded >> 16) & np.uint32(1))) >> 16
    quiet_nan = np.uint32(0x7FC0)
    return np.where(is_nan, quiet_nan, rounded).astype(np.uint16)


def _to_odd_float32(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """``values`` in float32, inexact ones rounded to odd, which makes a second rounding harmless.

    Source: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
    odd", IEEE Trans. Computers 57(4), 2008: odd rounding with at least two spare bits commutes with the next one.
    """
    if values.dtype == np.float32:
        return np.ascontiguousarray(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    bits = nearest.view(np.uint32)
    is_inexact_and_even = (nearest.astype(np.float64) != values) & np.isfinite(nearest) & (bits & 1 == 0)
    is_above = np.abs(nearest.astype(np.float64)) > np.abs(values)
    # One step towards the value; the magnitude of a float grows with its bits.
    step = np.where(is_above, np.uint32(0xFFFFFFFF), np.uint32(1))
    return np.where(is_inexact_and_even, bits + step, bits).astype(np.uint32).view(np.float32)
