"""Binary BCH codes: systematic encoding, and algebraic decoding that corrects every pattern of up to t errors.

Written here, 150 lines of table arithmetic, because the library that offers the same (`galois`) compiles its decoder
anew in each process: 12 s before the first picture is read, where the whole extraction is to take less than 3 s. The
tests hold both against each other; polynomials and the order of the bits are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
"""Zeros and ones, one per byte."""

_PRIMITIVE = {7: 0b10001001, 8: 0b100011101, 9: 0b1000010001}
"""Degree m -> primitive polynomial of GF(2^m), the usual ones: x^7+x^3+1, x^8+x^4+x^3+x^2+1, x^9+x^4+1."""


@dataclass(frozen=True)
class _Field:
    """Exponentials and logarithms of GF(2^m); `exp` runs twice round so that sums of two logarithms need no modulo."""

    size: int
    exp: NDArray[np.int64]
    log: NDArray[np.int64]

    def multiply(self, a: int, b: int) -> int:
        return int(self.exp[self.log[a] + self.log[b]]) if a and b else 0

    def divide(self, a: int, b: int) -> int:
        return int(self.exp[self.log[a] - self.log[b] + self.size]) if a else 0


class BchCode:
    """A narrow-sense primitive BCH code of length n = 2^m - 1.

    A codeword is the message followed by the parity bits; as a polynomial its first bit has the highest degree.

    Args:
        n: Length: 127, 255 or 511.
        t: Number of errors that are always corrected; the designed distance is 2 t + 1.

    Attributes:
        k: Message bits.
        generator: [k,n] systematic generator matrix.
    """

    def __init__(self, n: int, t: int) -> None:
        self.n, self.t = n, t
        self._field = _field((n + 1).bit_length() - 1)
        polynomial = _generator_polynomial(self._field, t)
        self.k = n - (polynomial.bit_length() - 1)
        self.generator = _systematic_generator(polynomial, n, self.k)

    def encode(self, message: Bits) -> Bits:
        """The codeword [n] of a message [k]."""
        assert message.shape == (self.k,)
        return (message.astype(np.int64) @ self.generator % 2).astype(np.uint8)

    def decode(self, word: Bits) -> tuple[Bits, int] | None:
        """Correct up to t errors.

        Args:
            word: [n] received bits.
        Returns:
            The codeword [n] within distance t and its distance; None when there is no such codeword.
        Source: Massey 1969 (shift register synthesis) and Chien's search.
        """
        assert word.shape == (self.n,)
        syndromes = self._syndromes(word)
        if not syndromes.any():
            return word.copy(), 0
        locator = self._error_locator([int(s) for s in syndromes])
        n_errors = len(locator) - 1
        if n_errors > self.t:
            return None
        positions = self._roots(locator)
        if len(positions) != n_errors:
            return None
        corrected = word.copy()
        corrected[positions] ^= 1
        return None if self._syndromes(corrected).any() else (corrected, n_errors)

    def _syndromes(self, word: Bits) -> NDArray[np.int64]:
        """[2t]: the word's polynomial at alpha^1 ... alpha^2t."""
        degrees = self.n - 1 - np.flatnonzero(word)
        powers = np.outer(np.arange(1, 2 * self.t + 1), degrees) % self.n
        return np.bitwise_xor.reduce(self._field.exp[powers], axis=1)

    def _error_locator(self, syndromes: list[int]) -> list[int]:
        """Coefficients, constant first, of the shortest shift register that makes the syndromes (Berlekamp-Massey)."""
        field = self._field
        current, previous = [1], [1]
        length, gap, previous_discrepancy = 0, 1, 1
        for step, syndrome in enumerate(syndromes):
            discrepancy = syndrome
            for i in range(1, min(length, len(current) - 1) + 1):
                discrepancy ^= field.multiply(current[i], syndromes[step - i])
            if discrepancy == 0:
                gap += 1
                continue
            factor = field.divide(discrepancy, previous_discrepancy)
            longer = current + [0] * (gap + len(previous) - len(current))
            for i, coefficient in enumerate(previous):
                longer[i + gap] ^= field.multiply(factor, coefficient)
            if 2 * length <= step:
                length, previous, previous_discrepancy, gap = step + 1 - length, current, discrepancy, 1
            else:
                gap += 1
            current = longer
        while current[-1] == 0:
            current.pop()
        return current

    def _roots(self, locator: list[int]) -> NDArray[np.int64]:
        """Positions in the word whose inverse locator is a root of the polynomial."""
        degrees = np.arange(self.n)
        value = np.zeros(self.n, np.int64)
        for i, coefficient in enumerate(locator):
            if coefficient:
                value ^= self._field.exp[(self._field.log[coefficient] - i * degrees) % self.n]
        return self.n - 1 - degrees[value == 0]


@cache
def bch_code(n: int, t: int) -> BchCode:
    """The code of length n that corrects t errors; built once (milliseconds)."""
    return BchCode(n, t)


def _field(m: int) -> _Field:
    size = 2**m - 1
    exp, log = np.zeros(2 * size + 1, np.int64), np.zeros(size + 1, np.int64)
    value = 1
    for power in range(size):
        exp[power], log[value] = value, power
        value <<= 1
        if value > size:
            value ^= _PRIMITIVE[m]
    exp[size:] = np.resize(exp[:size], size + 1)
    return _Field(size, exp, log)


def _generator_polynomial(field: _Field, t: int) -> int:
    """Product of the minimal polynomials of alpha, alpha^3, ... alpha^(2t-1); bit i is the coefficient of x^i."""
    product, covered = 1, set[int]()
    for power in range(1, 2 * t, 2):
        if power in covered:
            continue
        coset, member = [], power
        while member not in coset:
            coset.append(member)
            member = 2 * member % field.size
        covered.update(coset)
        product = _multiply_binary(product, _minimal_polynomial(field, coset))
    return product


def _minimal_polynomial(field: _Field, coset: list[int]) -> int:
    """Product of (x - alpha^c) over a cyclotomic coset; its coefficients are 0 and 1."""
    coefficients = [1]
    for power in coset:
        root = int(field.exp[power])
        shifted = [0, *coefficients]
        for i, coefficient in enumerate(coefficients):
            shifted[i] ^= field.multiply(root, coefficient)
        coefficients = shifted
    return sum(coefficient << i for i, coefficient in enumerate(coefficients))


def _multiply_binary(a: int, b: int) -> int:
    product = 0
    for i in range(b.bit_length()):
        if b >> i & 1:
            product ^= a << i
    return product


def _systematic_generator(polynomial: int, n: int, k: int) -> Bits:
    """Row i: x^(n-1-i) and the remainder that makes it divisible by the polynomial."""
    rows = np.zeros((k, n), np.uint8)
    degree = n - k
    for i in range(k):
        remainder = 1 << (n - 1 - i)
        for power in range(n - 1 - i, degree - 1, -1):
            if remainder >> power & 1:
                remainder ^= polynomial << (power - degree)
        rows[i, i] = 1
        rows[i, k:] = [remainder >> power & 1 for power in range(degree - 1, -1, -1)]
    return rows
