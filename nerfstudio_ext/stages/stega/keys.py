"""A key and everything that is drawn from it: whitening bits, the order of the code bits, directions in feature space.

All of it is integer arithmetic on HMAC-SHA256 output, so that a key means the same on every machine, to the last bit.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError

FEATURES = 128
"""Width of the public extractor's feature; a power of two, which the Hadamard matrix needs."""
_MASTER = b"nerfstudio-ext provenance mark, key, version 1"
_ROUNDS = 3
"""Sign changes between Hadamard matrices; after three the rows look uniformly random (Yu et al. 2016, orthogonal
random features), and the fourth, outermost one makes the signs of the logits exactly independent fair coins."""


class Key:
    """A secret that decides where in feature space the bits of a message lie.

    Args:
        secret: Text (as UTF-8 in Unicode form NFC, so that it does not matter how an accent was typed) or bytes.
    Raises:
        UserError: if it is empty or holds characters that have no UTF-8 form.
    """

    def __init__(self, secret: str | bytes) -> None:
        if isinstance(secret, str):
            try:
                secret = unicodedata.normalize("NFC", secret).encode()
            except UnicodeEncodeError:
                raise UserError(
                    "the key holds a character that is not valid Unicode",
                    where="--key",
                    fix="Type the key again, or pass it in a file",
                ) from None
        if not secret:
            raise UserError("the key is empty", where="--key", fix="Choose a word or phrase only you know")
        self._master = hmac.digest(_MASTER, secret, "sha256")

    def stream(self, purpose: str, n_bytes: int) -> bytes:
        """Pseudorandom bytes; other purposes give independent ones, more bytes continue fewer."""
        label = purpose.encode() + b"\0"
        blocks = (
            hmac.digest(self._master, label + counter.to_bytes(4, "big"), "sha256")
            for counter in range(-(-n_bytes // 32))
        )
        return b"".join(blocks)[:n_bytes]

    def bits(self, purpose: str, n: int) -> NDArray[np.uint8]:
        """[n] fair coin flips, 0 or 1."""
        return np.unpackbits(np.frombuffer(self.stream(purpose, -(-n // 8)), np.uint8))[:n]

    def permutation(self, purpose: str, n: int) -> NDArray[np.int64]:
        """[n] the numbers 0 to n - 1 in random order."""
        return np.argsort(np.frombuffer(self.stream(purpose, 8 * n), ">u8"), kind="stable")

    def projection(self, n_bits: int, width: int = FEATURES) -> NDArray[np.float32]:
        """Directions of the code bits in feature space.

        Rows come in blocks of `width` that are orthonormal within: `D4 H D3 H D2 H D1 / width^1.5` with the Hadamard
        matrix H and diagonal signs D from the key. Beyond `width` bits no longer are independent of each other.

        Args:
            n_bits: Number of rows; fewer are the first of more.
            width: Length of a feature; a power of two.
        Returns:
            [n_bits,width].
        """
        hadamard = _hadamard(width)
        blocks = []
        for block in range(-(-n_bits // width)):
            signs = _signs([self], block, width)[0].astype(np.int64)
            rows = np.diag(signs[0])
            for later in signs[1:]:
                rows = later[:, None] * (hadamard @ rows)
            blocks.append(rows / float(width) ** (_ROUNDS / 2))
        return np.concatenate(blocks)[:n_bits].astype(np.float32)


def random_keys(count: int, seed: int = 0, *, first: int = 0) -> list[Key]:
    """Keys that nobody chose, for the test of what a wrong key reads; the same ones for the same seed.

    Args:
        count: How many.
        seed: Series.
        first: Number of the first one in the series.
    """
    return [Key(b"random key %d of series %d" % (i, seed)) for i in range(first, first + count)]


def project(keys: Sequence[Key], feature: NDArray[np.floating], n_bits: int) -> NDArray[np.float64]:
    """Logits of many keys on one feature, without building their matrices (2000 keys in a tenth of a second).

    Args:
        keys: K keys.
        feature: [width], or several [..,width].
        n_bits: Code bits per key.
    Returns:
        [..,K,n_bits]; row i equals `keys[i].projection(n_bits, width) @ feature`.
    """
    width = feature.shape[-1]
    blocks = []
    for block in range(-(-n_bits // width)):
        signs = _signs(keys, block, width).astype(np.float64)
        values = signs[:, 0] * feature[..., None, :]
        for later in range(1, _ROUNDS + 1):
            values = signs[:, later] * _times_hadamard(values)
        blocks.append(values / float(width) ** (_ROUNDS / 2))
    return np.concatenate(blocks, axis=-1)[..., :n_bits]


def _signs(keys: Sequence[Key], block: int, width: int) -> NDArray[np.int8]:
    """[K,4,width] of -1 and 1: the diagonals of each key's block, innermost first."""
    n_bits = (_ROUNDS + 1) * width
    drawn = b"".join(key.stream(f"projection {width} {block}", -(-n_bits // 8)) for key in keys)
    flat = np.unpackbits(np.frombuffer(drawn, np.uint8).reshape(len(keys), -1), axis=1)[:, :n_bits]
    return (2 * flat.astype(np.int8) - 1).reshape(len(keys), _ROUNDS + 1, width)


def _times_hadamard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values @ _hadamard(width)` by sums and differences only; a matrix product would start threads."""
    width = values.shape[-1]
    step = 1
    while step < width:
        pairs = values.reshape(*values.shape[:-1], width // (2 * step), 2, step)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        values = np.stack([first + second, first - second], axis=-2).reshape(values.shape)
        step *= 2
    return values


def _hadamard(width: int) -> NDArray[np.int64]:
    """[width,width] of -1 and 1 with orthogonal rows (Sylvester's construction); symmetric."""
    assert width >= 1 and width & (width - 1) == 0, "the feature width is a power of two"
    matrix = np.ones((1, 1), np.int64)
    while len(matrix) < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
