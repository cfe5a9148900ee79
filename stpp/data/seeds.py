"""Randomness that depends on what is drawn, never on when, where or by whom: every draw has a seed of its own."""

import hashlib


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers, the same in every process: seed_of(seed, "teacher", epoch, position)."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
