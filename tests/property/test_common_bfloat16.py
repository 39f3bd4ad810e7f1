from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from common.bfloat16 import all_finite_bf16, decode_bf16, encode_bf16

ALL_BITS = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
# Half a step above the largest number: from here on, rounding gives infinity (IEEE 754-2019, section 4.3.1).
OVERFLOW = Fraction(2) ** 128 - Fraction(2) ** 119


def test_every_bfloat16_decodes_as_ml_dtypes_says() -> None:
    expected = ALL_BITS.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(decode_bf16(ALL_BITS), expected)


def test_every_number_survives_decoding_and_encoding() -> None:
    numbers = ALL_BITS[~np.isnan(decode_bf16(ALL_BITS))]
    np.testing.assert_array_equal(encode_bf16(decode_bf16(numbers)), numbers)


@given(st.integers(0, 2**32 - 1))
@example(0xFFFFFFFF)  # a NaN whose bits would wrap around in the rounding sum
@example(0x7F7FFFFF)  # the largest float32, which rounds to infinity
@example(0x3F808000)  # a tie that goes down to the even one
@example(0x3F818000)  # a tie that goes up to it
def test_float32_is_rounded_as_ml_dtypes_rounds(bits: int) -> None:
    value = np.array([bits], dtype=np.uint32).view(np.float32)
    ours = decode_bf16(encode_bf16(value))
    theirs = value.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(ours, theirs)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1.0 + 2**-8 + 2**-40)  # just above a tie; rounded to float32 first, it would become the tie and go down
@example(1.0 + 3 * 2**-8 - 2**-40)
@example(-(1.0 + 2**-8 + 2**-40))
@example(2.0**-134 + 2.0**-160)  # the same below the normal numbers
@example(5e-324)
@example(float(OVERFLOW))
@example(float(np.nextafter(float(OVERFLOW), 0)))
def test_float64_is_rounded_once_to_nearest_even(value: float) -> None:
    rounded_bits = int(encode_bf16(np.array([value]))[0])
    rounded = float(decode_bf16(np.array([rounded_bits], dtype=np.uint16))[0])
    if abs(Fraction(value)) >= OVERFLOW:
        assert abs(rounded) == float("inf") and (rounded > 0) == (value > 0)
        return
    error = abs(Fraction(rounded) - Fraction(value))
    for neighbour_bits in (rounded_bits - 1, rounded_bits + 1):
        magnitude = neighbour_bits & 0x7FFF
        if neighbour_bits >> 15 != rounded_bits >> 15 or magnitude >= 0x7F80:
            continue
        neighbour = float(decode_bf16(np.array([neighbour_bits], dtype=np.uint16))[0])
        other_error = abs(Fraction(neighbour) - Fraction(value))
        assert error < other_error or (error == other_error and rounded_bits % 2 == 0)


@given(st.integers(0, 0x7F7F), st.floats(-(2.0**-30), 2.0**-30), st.sampled_from([1.0, -1.0]))
def test_next_to_a_tie_the_value_itself_decides(bits: int, beside: float, sign: float) -> None:
    below, above = (float(decode_bf16(np.array([each], dtype=np.uint16))[0]) for each in (bits, bits + 1))
    above = above if bits < 0x7F7F else float(OVERFLOW) * 2 - below  # where infinity would lie
    tie = below + (above - below) / 2
    value = np.array([sign * tie * (1 + beside)])
    expected = bits + (abs(value[0]) > tie or (abs(value[0]) == tie and bits % 2 == 1))
    assert int(encode_bf16(value)[0]) & 0x7FFF == expected


def test_numbers_that_are_not_finite_are_known_by_their_bits() -> None:
    finite = np.isfinite(decode_bf16(ALL_BITS))
    assert all_finite_bf16(ALL_BITS[finite])
    assert not any(all_finite_bf16(ALL_BITS[index : index + 1]) for index in np.flatnonzero(~finite))


def test_shape_is_kept() -> None:
    assert encode_bf16(np.zeros((2, 3))).shape == decode_bf16(np.zeros((2, 3), dtype=np.uint16)).shape == (2, 3)
