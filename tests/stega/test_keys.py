"""A key means the same everywhere, and nothing to other keys."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.stages.stega.keys import FEATURES, Key, project, random_keys


def test_rows_are_orthonormal() -> None:
    rows = Key("k").projection(FEATURES).astype(np.float64)
    assert np.abs(rows @ rows.T - np.eye(FEATURES)).max() < 1e-6


def test_fewer_rows_are_the_first_of_more() -> None:
    key = Key("k")
    assert (key.projection(48) == key.projection(300)[:48]).all()
    assert key.projection(300).shape == (300, FEATURES)
    assert key.projection(60, 256).shape == (60, 256)


def test_a_key_means_the_same_on_every_machine() -> None:
    """Pinned: entries are small integers over 128^1.5, so that nothing depends on a floating-point library."""
    rows = Key("pinned").projection(64).astype(np.float64) * FEATURES**1.5
    assert np.abs(rows - rows.round()).max() < 1e-3
    assert hashlib.sha256(rows.round().astype("<i4").tobytes()).hexdigest()[:16] == "5c072f7cafc7e168"
    assert Key("pinned").stream("x", 8).hex() == "7380cb5e00da9871"
    assert Key("pinned").permutation("x", 6).tolist() == [4, 3, 0, 2, 1, 5]


def test_text_and_its_bytes_are_one_key_however_accents_are_typed() -> None:
    composed, decomposed = Key("caf\u00e9"), Key("cafe\u0301")
    assert composed.stream("x", 16) == decomposed.stream("x", 16) == Key("caf\u00e9".encode()).stream("x", 16)
    assert composed.stream("x", 40)[:16] == composed.stream("x", 16) != composed.stream("y", 16)


def test_unusable_keys_are_refused() -> None:
    with pytest.raises(UserError, match="the key is empty"):
        Key("")
    with pytest.raises(UserError, match="not valid Unicode"):
        Key("\ud800")


def test_keys_are_independent() -> None:
    """Products of rows of different keys are as spread as those of random directions: variance 1/128."""
    rows = np.stack([key.projection(32) for key in random_keys(40)]).astype(np.float64)
    products = np.einsum("anf,bmf->abnm", rows, rows)[~np.eye(40, dtype=bool)]
    assert abs(products.mean()) < 0.002
    assert products.var() * FEATURES == pytest.approx(1, abs=0.02)
    assert np.abs(products).max() < 0.6


@pytest.mark.parametrize("kind", ["random", "one peak", "constant"])
def test_what_a_random_key_reads_is_fair_coins_whatever_the_feature(kind: str) -> None:
    # A little noise: features of pictures are no small integers, whose logits would be exactly zero now and then.
    noise = np.random.default_rng(0).standard_normal(FEATURES)
    features = {"random": noise, "one peak": np.eye(FEATURES)[3] + 1e-3 * noise, "constant": 1 + 1e-3 * noise}
    logits = project(random_keys(2000), features[kind], 127)
    ones = (logits > 0).sum(1)
    assert ones.mean() == pytest.approx(63.5, abs=4 * np.sqrt(127 / 4 / 2000))
    assert ones.var() == pytest.approx(127 / 4, rel=0.13)
    between = np.corrcoef((logits > 0).T)
    assert np.abs(between[~np.eye(127, dtype=bool)]).max() < 5.5 / np.sqrt(2000)


def test_many_keys_at_once_read_what_each_reads() -> None:
    feature = np.random.default_rng(1).standard_normal(FEATURES)
    keys = random_keys(5, seed=3)
    expected = np.stack([key.projection(200).astype(np.float64) @ feature for key in keys])
    assert np.abs(project(keys, feature, 200) - expected).max() < 1e-5


def test_two_thousand_keys_take_a_moment() -> None:
    started = time.process_time()
    project(random_keys(2000), np.ones(FEATURES), 127)
    assert time.process_time() - started < 1.0


def test_order_is_a_permutation() -> None:
    assert sorted(Key("k").permutation("p", 511)) == list(range(511))
    assert (Key("k").permutation("p", 127) != Key("l").permutation("p", 127)).any()
