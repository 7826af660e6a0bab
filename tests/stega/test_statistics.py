"""P-values are exact where they can be, bounds elsewhere, and alarms go off when theory and keys disagree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.stages.stega.keys import FEATURES, Key
from nerfstudio_ext.stages.stega.statistics import (
    binomial_p_value,
    detection_threshold,
    log2_agreement_bound,
    log2_loss_tail,
    log2_sign_tail,
    p_values_disagree,
    pay_for_dependent_trials,
    pay_for_trials,
    random_key_matches,
    weigh_evidence,
)


def test_binomial_by_hand() -> None:
    assert binomial_p_value(0, 5) == 1
    assert binomial_p_value(5, 5) == pytest.approx(1 / 32)
    assert binomial_p_value(3, 4) == pytest.approx(5 / 16)
    assert binomial_p_value(127, 127) == pytest.approx(2.0**-127)


@pytest.mark.parametrize(
    "n,counts",
    [(32, (26, 30, 32)), (48, (36, 41, 44)), (64, (45, 51, 56)), (96, (64, 72, 77)), (128, (82, 92, 98)),
     (256, (154, 167, 176))],
)  # fmt: skip
def test_detection_thresholds(n: int, counts: tuple[int, ...]) -> None:
    assert tuple(detection_threshold(n, rate) for rate in (1e-3, 1e-6, 1e-9)) == counts


def test_too_few_bits_have_no_threshold() -> None:
    assert detection_threshold(9, 1e-3) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=11), st.integers(0, 2**11 - 1))
def test_the_sign_tail_bounds_the_truth(weights: list[float], pattern: int) -> None:
    """Against all 2^n sign patterns."""
    n = len(weights)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    scores = signs @ np.array(weights)
    logits = np.array(weights) * signs[pattern % 2**n]
    truth = np.mean(scores >= logits.sum() - 1e-9)
    assert log2_sign_tail(logits, np.ones(n, np.uint8)) >= math.log2(truth) - 1e-6


def test_the_sign_tail_is_tight() -> None:
    """Within a fiftieth of a bit of the truth, counted over all 2^20 sets, where Chernoff's bound loses three bits."""
    rng = np.random.default_rng(4)
    for _ in range(5):
        weights = np.abs(rng.standard_normal(20)) + 0.05
        sums = np.zeros(1)
        for weight in weights:
            sums = np.concatenate([sums, sums + weight])
        loss = float(weights[rng.choice(20, 3, replace=False)].sum())
        truth = math.log2(np.count_nonzero(sums <= loss + 1e-9)) - 20
        assert truth - 1e-6 <= log2_loss_tail(weights, loss) <= truth + 0.02


def test_the_sign_tail_of_full_agreement_is_exact() -> None:
    assert log2_sign_tail(np.linspace(1, 2, 64), np.ones(64, np.uint8)) == pytest.approx(-64, abs=0.01)
    assert log2_sign_tail(-np.ones(9), np.ones(9, np.uint8)) == 0
    assert log2_sign_tail(np.zeros(9), np.ones(9, np.uint8)) == 0


def test_zeros_agree_with_nothing() -> None:
    assert log2_agreement_bound(np.zeros(127), np.zeros(127, np.uint8), 0) == 0


def test_trials() -> None:
    assert pay_for_trials(0.5, 2) == pytest.approx(0.75)
    assert pay_for_trials(1e-20, 5) == pytest.approx(5e-20)
    assert pay_for_trials(1.0, 3) == 1
    assert pay_for_dependent_trials(0.3, 5) == 1
    assert pay_for_dependent_trials(1e-9, 5) == pytest.approx(5e-9)


def test_a_true_mark_is_convincing_both_ways() -> None:
    rng, key = np.random.default_rng(0), Key("owner")
    bits = rng.integers(0, 2, 64, dtype=np.uint8)
    rows = key.projection(64).astype(np.float64)
    feature = (2.0 * bits - 1) @ rows + 0.5 * rng.standard_normal(FEATURES)
    evidence = weigh_evidence(feature, rows @ feature, bits)
    assert evidence.p_value < 1e-9 and evidence.p_value_random_keys == pytest.approx(1 / 2001)
    assert not evidence.disagrees and evidence.n == 64


def test_random_keys_follow_the_binomial_law_and_an_unmarked_picture_is_not_convincing() -> None:
    rng = np.random.default_rng(1)
    bits, feature = rng.integers(0, 2, 127, dtype=np.uint8), rng.standard_normal(FEATURES)
    matches = random_key_matches(feature, bits)
    assert matches.mean() == pytest.approx(63.5, abs=0.51)
    assert matches.std() == pytest.approx(math.sqrt(127) / 2, rel=0.07)
    tail = np.array([np.mean(matches >= 63.5 + d) for d in (5, 10, 14)])
    law = np.array([binomial_p_value(math.ceil(63.5 + d), 127) for d in (5, 10, 14)])
    assert np.abs(tail - law).max() < 4 * 0.5 / math.sqrt(2000)
    logits = Key("owner").projection(127).astype(np.float64) @ feature
    evidence = weigh_evidence(feature, logits, bits)
    assert evidence.p_value > 1e-3 and not evidence.disagrees


def test_disagreement_is_told_where_it_can_be_seen() -> None:
    assert p_values_disagree(1e-9, 0.02, 2000)
    assert p_values_disagree(0.5, 0.01, 2000)
    assert not p_values_disagree(1e-9, 1 / 2001, 2000)
    assert not p_values_disagree(0.02, 0.03, 2000)
