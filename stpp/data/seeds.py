"""Seeds for random draws: every draw has its own seed, which depends only on what is drawn.

It does not depend on when, where or by which process the draw is made.
"""

import hashlib


def seed_of(*parts: str | int) -> int:
    """Return a 63-bit hash of names and numbers as a seed, such as seed_of(seed, "teacher", epoch, position).

    It is the same in every process.
    """
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
