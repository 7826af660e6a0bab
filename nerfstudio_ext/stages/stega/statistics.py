"""How likely chance alone is to look like a mark.

The null hypothesis is an unmarked picture or a wrong key. The outermost step of a key's projection multiplies each
logit with a fair coin of its own, so that over keys the bits are independent and unbiased whatever the picture shows,
and independent of the sizes of the logits. Over pictures with one key they are neither: p-values come from keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bch import Bits
from .keys import project, random_keys
from .soft_decoding import Logits

RANDOM_KEYS = 2000
"""Keys of the empirical test; its smallest p-value is 1 / 2001."""
DISAGREEMENT = 10.0
"""Factor between both p-values from which the theory is not trusted on this picture."""


def binomial_p_value(matches: int, n: int) -> float:
    """Probability that n fair coins agree with n given bits in at least `matches` places; exact."""
    assert 0 <= matches <= n
    return _exp2(log2_sphere(n - matches, n) - n)


def detection_threshold(n: int, false_positive_rate: float) -> int | None:
    """Smallest number of equal bits with a p-value of at most the rate; None when even all of them are too few."""
    return next((m for m in range(n + 1) if binomial_p_value(m, n) <= false_positive_rate), None)


def log2_sphere(radius: int, n: int) -> float:
    """Logarithm to base 2 of the number of words of n bits within a Hamming distance."""
    return math.log2(sum(math.comb(n, i) for i in range(min(radius, n) + 1)))


def log2_sign_tail(logits: Logits, bits: Bits) -> float:
    """Bound on how likely random signs are to agree with the bits as well as these logits do.

    With weights w = |logit| and random signs s: `P(sum w s >= S) <= min_l prod cosh(l w) exp(-l S)` (Chernoff). A wrong
    bit that the extractor was unsure of costs little, which is what hard decisions cannot express.

    Args:
        logits: [n] of the picture, positive for a one.
        bits: [n] of the codeword.
    Returns:
        Logarithm to base 2 of the bound: 0 where the logits do not favour the bits, -n where every sign agrees.
    """
    weights = np.abs(logits)
    if not np.isfinite(weights).all() or not weights.any():
        return 0.0
    weights = weights / weights.max()
    scores = weights * np.where((logits > 0) == (bits > 0), 1.0, -1.0)
    total = float(scores.sum())
    if total <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while float(weights @ np.tanh(high * weights)) < total and high < 2.0**20:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(weights @ np.tanh(middle * weights)) < total else (low, middle)
    scaled = high * weights
    log_cosh = scaled + np.log1p(np.exp(-2 * scaled)) - math.log(2)
    bound = (float(log_cosh.sum()) - high * total) / math.log(2)
    return max(min(bound, 0.0), -float(np.count_nonzero(weights)))


def log2_agreement_bound(logits: Logits, bits: Bits, log2_candidates: float) -> float:
    """Bound on the chance that random signs agree this well with any of a number of codewords.

    The better of hard decisions (number of equal bits) and soft ones (`log2_sign_tail`), paid for with a factor of two.
    It counts every codeword there is, so that it holds whatever search has found this one.

    Args:
        logits: [n]; a zero agrees with no bit.
        bits: [n] of the codeword found.
        log2_candidates: Logarithm to base 2 of how many codewords were in question.
    Returns:
        Logarithm to base 2 of the bound, at most 0.
    """
    n = len(bits)
    errors = int(np.count_nonzero(((logits > 0) != (bits > 0)) | (logits == 0)))
    hard = log2_sphere(errors, n) - n
    return min(0.0, 1 + log2_candidates + min(hard, log2_sign_tail(logits, bits)))


def pay_for_trials(p_value: float, trials: int) -> float:
    """P-value of the best of several independent looks (Sidak).

    Sizes below double precision of one are kept: `pay_for_trials(1e-20, 5)` is 5e-20.
    """
    assert trials >= 1 and 0 <= p_value <= 1
    return 1.0 if p_value == 1 else -math.expm1(trials * math.log1p(-p_value))


def pay_for_dependent_trials(p_value: float, trials: int) -> float:
    """P-value of the best of several looks that may depend on each other (Bonferroni)."""
    assert trials >= 1 and 0 <= p_value <= 1
    return min(1.0, trials * p_value)


@dataclass(frozen=True)
class Evidence:
    """How surely given bits stand in a picture.

    Attributes:
        matches: Code bits that agree.
        n: Code bits in all.
        p_value: Binomial: chance of as many matches under a wrong key.
        p_value_random_keys: Share of random keys that agree as well on this very picture, the true one counted in; not
            below 1 / (keys + 1).
        disagrees: Whether both differ by more than a factor of ten where the number of keys can tell: then neither
            should be relied on.
    """

    matches: int
    n: int
    p_value: float
    p_value_random_keys: float
    disagrees: bool


def weigh_evidence(
    feature: NDArray[np.floating], logits: Logits, bits: Bits, *, n_keys: int = RANDOM_KEYS, seed: int = 0
) -> Evidence:
    """Compare the true key's agreement on a picture with the binomial law and with random keys on the same picture.

    Args:
        feature: [width] of the picture (or the mean of several).
        logits: [n] that the true key reads from it.
        bits: [n] code bits of the message in question.
        n_keys: Random keys to compare with.
        seed: Series of the random keys.
    """
    n = len(bits)
    matches = int(np.count_nonzero((logits > 0) == (bits > 0)))
    others = random_key_matches(feature, bits, n_keys=n_keys, seed=seed)
    exact = binomial_p_value(matches, n)
    empirical = (1 + int(np.count_nonzero(others >= matches))) / (n_keys + 1)
    return Evidence(matches, n, exact, empirical, p_values_disagree(exact, empirical, n_keys))


def random_key_matches(
    feature: NDArray[np.floating], bits: Bits, *, n_keys: int = RANDOM_KEYS, seed: int = 0
) -> NDArray[np.int64]:
    """[n_keys] how many of the bits each of a series of random keys reads from the feature by chance."""
    logits = project(random_keys(n_keys, seed), feature, len(bits))
    return np.count_nonzero((logits > 0) == (bits > 0)[None], axis=1)


def p_values_disagree(exact: float, empirical: float, n_keys: int) -> bool:
    """Whether the p-values differ by more than ten times, apart from what `n_keys` random keys cannot resolve."""
    floor = 1 / (n_keys + 1)
    ratio = max(empirical, floor) / max(exact, floor)
    return ratio > DISAGREEMENT or ratio < 1 / DISAGREEMENT


def _exp2(exponent: float) -> float:
    """2^exponent; zero below the smallest double."""
    return min(1.0, 2.0 ** max(exponent, -1074.0)) if exponent > -1075 else 0.0
