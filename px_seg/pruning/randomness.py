"""Generators for what pruning draws."""

import hashlib

import torch


def derived_seed(purpose: str, *key: object) -> int:
    """A seed below 2**32 that `purpose` and `key` decide.

    Hashed, because plain seeds collide: a network built after torch.manual_seed(seed) is
    drawn from the very numbers that a generator of that seed gives. And torch's generator on the CPU
    sees only the lowest 32 bits of a seed.
    """
    digest = hashlib.blake2b(repr((purpose, *key)).encode(), digest_size=4).digest()
    return int.from_bytes(digest)


def generator(purpose: str, *key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that `purpose` and `key` decide."""
    return torch.Generator(device).manual_seed(derived_seed(purpose, *key))
