"""MurmurHash64A (Austin Appleby, public domain), by which spaCy numbers strings. It is no cryptographic digest."""

from __future__ import annotations

_MASK = 2**64 - 1
_MULTIPLIER = 0xC6A4A7935BD1E995
_SHIFT = 47


def murmur64(content: bytes, seed: int) -> int:
    """The 64-bit hash of ``content``."""
    hashed = (seed ^ (len(content) * _MULTIPLIER)) & _MASK
    whole = len(content) - len(content) % 8
    for start in range(0, whole, 8):
        block = int.from_bytes(content[start : start + 8], "little") * _MULTIPLIER & _MASK
        block = (block ^ (block >> _SHIFT)) * _MULTIPLIER & _MASK
        hashed = (hashed ^ block) * _MULTIPLIER & _MASK
    if content[whole:]:
        hashed = (hashed ^ int.from_bytes(content[whole:], "little")) * _MULTIPLIER & _MASK
    hashed = (hashed ^ (hashed >> _SHIFT)) * _MULTIPLIER & _MASK
    return hashed ^ (hashed >> _SHIFT)
