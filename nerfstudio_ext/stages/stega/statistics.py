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
_PARTS = 4096
"""Into which the loss is divided for counting: the bound comes out 0.02 bits too large, in half a millisecond."""


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
    """How likely random signs are to agree with the bits as well as these logits do: an upper bound, tight to 1 %.

    With weights w = |logit| and loss = the sum of w over the bits that are wrong, these are the sets of bits whose
    weights sum to no more than the loss, of all 2^n sets. A wrong bit that the extractor was unsure of costs little,
    which is what hard decisions cannot express; with equal weights it is the binomial law. The sets are counted with
    weights rounded down to whole parts of the loss, which can only count too many.

    Args:
        logits: [n] of the picture, positive for a one; zeros agree with no bit and say nothing.
        bits: [n] of the codeword.
    Returns:
        Logarithm to base 2 of the bound: 0 where the logits do not favour the bits, -n where every sign agrees.
    """
    weights = np.abs(logits)
    if not np.isfinite(weights).all() or not weights.any():
        return 0.0
    return log2_loss_tail(weights, float(weights[(logits > 0) != (bits > 0)].sum()))


def log2_loss_tail(weights: Logits, loss: float) -> float:
    """Logarithm to base 2 of the share of all sets of weights that sum to no more than the loss; see `log2_sign_tail`.

    Args:
        weights: [n], not negative, not all zero.
        loss: Sum of the weights of the bits that are wrong.
    """
    weights = weights[weights > 0]
    if 2 * loss >= float(weights.sum()):
        return 0.0
    if loss <= 0:
        return -float(len(weights))
    # Rounding of the sums must not lose the observed set itself.
    parts = np.floor(weights * (_PARTS / (loss * (1 + 1e-12)))).astype(np.int64)
    counts = np.zeros(_PARTS + 1)
    counts[0] = 1.0
    for part in parts[parts <= _PARTS]:
        counts[part:] += counts[: len(counts) - part].copy()
    return min(0.0, math.log2(float(counts.sum())) + 1e-9 - len(weights))


def log2_agreement_bound(logits: Logits, bits: Bits, log2_candidates: float) -> float:
    """Bound on the chance that random signs agree this well with any of a number of codewords.

    It counts every codeword there is, so that it holds whatever search has found this one.

    Args:
        logits: [n]; a zero agrees with no bit.
        bits: [n] of the codeword found.
        log2_candidates: Logarithm to base 2 of how many codewords were in question.
    Returns:
        Logarithm to base 2 of the bound, at most 0.
    """
    return min(0.0, log2_candidates + log2_sign_tail(logits, bits))


def pay_for_trials(p_value: float, trials: int) -> float:
    """P-value of the best of several independent looks (Sidak).

    Sizes below double precision of one are kept: `pay_for_trials(1e-20, 5)` is 5e-20.
    """
    assert trials >= 1 and 0 <= p_value <= 1
    return 1.0 if p_value == 1 else -math.expm1(trials * math.log1p(-p_value))


def pay_for_dependent_trials(p_value: float, trials: float) -> float:
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
