"""Choosing which photos to match: a cheap vote of a few large features instead of a full match of every pair.

Imports numpy only: the pose solver's child process loads this file by path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

OVERLAP_FEATURES = 300
"""Largest features per picture that vote on which pictures overlap: 1225 pairs take 1 s, where matching takes 40 s."""
MIN_OVERLAP_SCORE = 4
"""Votes below this are chance; measured pairs that see nothing in common get 0 to 3."""

Pairs = list[tuple[int, int]]


def overlap_scores(
    descriptors: Sequence[np.ndarray],
    sizes: Sequence[np.ndarray],
    n_features: int = OVERLAP_FEATURES,
    advance: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """How many of the largest features of each two pictures agree: a cheap forecast of their overlap.

    Args:
        descriptors: One array [N,128] uint8 per picture.
        sizes: Scale of each feature [N]; large ones are seen again from other distances.
        n_features: Features per picture that vote.
        advance: Called with the number of pictures compared so far.
    Returns:
        Symmetric counts [V,V] int32 of mutual best matches that pass a ratio test.
    """
    n = len(descriptors)
    table = np.zeros((n, n_features, 128), np.float32)
    for i, (features, size) in enumerate(zip(descriptors, sizes, strict=True)):
        largest = np.argsort(-size, kind="stable")[:n_features]
        rows = features[largest].astype(np.float32)
        table[i, : len(rows)] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    scores = np.zeros((n, n), np.int32)
    for i in range(n - 1):
        for start in range(i + 1, n, 32):
            others = table[start : start + 32]
            cosines = (table[i] @ others.reshape(-1, 128).T).reshape(n_features, len(others), n_features)
            cosines = np.ascontiguousarray(cosines.transpose(1, 0, 2))
            match = cosines.argmax(-1)
            back = np.take_along_axis(cosines.argmax(1), match, 1)
            best = np.take_along_axis(cosines, match[..., None], -1)[..., 0]
            np.put_along_axis(cosines, match[..., None], -1.0, -1)
            second = np.arccos(np.clip(cosines.max(-1), -1, 1))
            # 0.85, not COLMAP's 0.8: with few features the second best is farther away.
            agrees = (np.arccos(np.clip(best, -1, 1)) < 0.85 * second) & (back == np.arange(n_features)) & (best > 0.5)
            scores[i, start : start + 32] = agrees.sum(-1)
        advance(i + 1)
    return scores + scores.T


def choose_pairs(scores: np.ndarray, n_neighbours: int, window: int) -> Pairs:
    """Pick the pairs worth a full match: each picture's best partners and its neighbours in time.

    Args:
        scores: Overlap forecast [V,V].
        n_neighbours: Best partners of each picture; those of chance level are left out.
        window: Pictures before and after it that are always matched.
    """
    n = len(scores)
    pairs = {(i, j) for i in range(n) for j in range(i + 1, min(i + 1 + window, n))}
    for i in range(n):
        ranked = np.argsort(-scores[i], kind="stable")[:n_neighbours]
        pairs |= {(min(i, j), max(i, j)) for j in ranked.tolist() if j != i and scores[i, j] >= MIN_OVERLAP_SCORE}
    return sorted(pairs)
