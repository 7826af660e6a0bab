"""Choosing pairs: the cheap vote ranks pictures by what they share, and nobody is left without partners."""

from __future__ import annotations

import numpy as np

from nerfstudio_ext.scenes.overlap_pairs import MIN_OVERLAP_SCORE, choose_pairs, overlap_scores


def walk(n: int = 10, shared: int = 60, step: int = 20, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Descriptors of `n` pictures along a wall: neighbours share `shared - step` of their features, and so on."""
    rng = np.random.default_rng(seed)
    wall = rng.gamma(0.6, 30, (n * step + shared, 128))
    descriptors, sizes = [], []
    for i in range(n):
        seen = wall[i * step : i * step + shared] * rng.normal(1, 0.05, (shared, 128))
        order = rng.permutation(shared)
        descriptors.append(np.clip(seen, 0, 255).astype(np.uint8)[order])
        sizes.append(rng.random(shared)[order])
    return descriptors, sizes


def test_scores_count_shared_features() -> None:
    descriptors, sizes = walk()
    scores = overlap_scores(descriptors, sizes)
    assert (scores == scores.T).all()
    assert (np.diag(scores) == 0).all()
    assert (np.diag(scores, 1) >= 36).all()  # 40 of 60 features are shared by neighbours
    assert (np.abs(np.diag(scores, 2) - 20) <= 4).all()
    assert (np.diag(scores, 3) < MIN_OVERLAP_SCORE).all()  # nothing is shared any more
    assert (np.diag(scores, 7) < MIN_OVERLAP_SCORE).all()


def test_scores_use_only_the_largest_features() -> None:
    descriptors, sizes = walk(n=2)
    everything = overlap_scores(descriptors, sizes, n_features=60)[0, 1]
    few = overlap_scores(descriptors, sizes, n_features=15)[0, 1]
    assert few < everything / 2


def test_pictures_with_few_or_no_features_do_no_harm() -> None:
    descriptors, sizes = walk(n=4)
    descriptors[2], sizes[2] = descriptors[2][:0], sizes[2][:0]
    scores = overlap_scores(descriptors, sizes)
    assert (scores[2] == 0).all()
    assert scores[0, 1] >= 36


def test_pairs_hold_neighbours_in_time_and_the_best_partners() -> None:
    scores = np.zeros((8, 8), int)
    scores[0, 7] = scores[7, 0] = 50
    scores[1, 5] = scores[5, 1] = MIN_OVERLAP_SCORE - 1
    pairs = choose_pairs(scores, n_neighbours=2, window=1)
    assert pairs == sorted([(i, i + 1) for i in range(7)] + [(0, 7)])


def test_every_picture_keeps_its_own_best_partners() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 100, (30, 30))
    scores = np.triu(scores, 1) + np.triu(scores, 1).T
    pairs = set(choose_pairs(scores, n_neighbours=5, window=0))
    for i in range(30):
        for j in np.argsort(-scores[i], kind="stable")[:5].tolist():
            assert (min(i, j), max(i, j)) in pairs
    assert len(pairs) <= 30 * 5
