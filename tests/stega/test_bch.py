"""BCH codes correct what they promise, soft decisions more, and both agree with an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.stages.stega.bch import bch_code
from nerfstudio_ext.stages.stega.messages import LAYOUTS
from nerfstudio_ext.stages.stega.soft_decoding import likely_codewords

CODES = sorted({(layout.n, layout.t) for layout in LAYOUTS})
SIZES = {(127, 5): 92, (127, 10): 64, (127, 13): 50, (255, 18): 131, (255, 31): 55, (511, 30): 259}


def flipped(word: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    changed = word.copy()
    changed[rng.choice(len(word), count, replace=False)] ^= 1
    return changed


@pytest.mark.parametrize("n,t", CODES)
def test_sizes_are_those_of_the_tables(n: int, t: int) -> None:
    code = bch_code(n, t)
    assert code.k == SIZES[n, t] == code.generator.shape[0]
    assert (code.generator[:, : code.k] == np.eye(code.k)).all()


@pytest.mark.parametrize("n,t", CODES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_up_to_t_errors_are_always_corrected(n: int, t: int, data: st.DataObject) -> None:
    code = bch_code(n, t)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    errors = data.draw(st.integers(0, t))
    codeword = code.encode(rng.integers(0, 2, code.k, dtype=np.uint8))
    decoded = code.decode(flipped(codeword, errors, rng))
    assert decoded is not None and decoded[1] == errors
    assert (decoded[0] == codeword).all()


@pytest.mark.parametrize("n,t", CODES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_beyond_t_errors_the_answer_is_none_or_a_codeword_within_t(n: int, t: int, data: st.DataObject) -> None:
    code = bch_code(n, t)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    word = flipped(code.encode(rng.integers(0, 2, code.k, dtype=np.uint8)), data.draw(st.integers(t + 1, n)), rng)
    decoded = code.decode(word)
    if decoded is not None:
        assert np.count_nonzero(decoded[0] != word) == decoded[1] <= t
        assert (code.encode(decoded[0][: code.k]) == decoded[0]).all()


def test_a_code_is_linear() -> None:
    code, rng = bch_code(127, 13), np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, code.k), dtype=np.uint8)
    assert (code.encode(a) ^ code.encode(b) == code.encode(a ^ b)).all()


def test_soft_decisions_find_the_best_of_all_codewords_of_a_small_code() -> None:
    """Hamming(7,4) has 16 codewords: the list can be compared with all of them."""
    generator = np.array(
        [[1, 0, 0, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]], np.uint8
    )
    messages = (np.arange(16)[:, None] >> np.arange(4)) & 1
    every = messages @ generator % 2
    rng = np.random.default_rng(1)
    for _ in range(50):
        logits = rng.standard_normal(7)
        best = every[np.argmax((2 * every - 1) @ logits)]
        found = likely_codewords(generator, logits, order=3, keep=4)
        assert (found[0] == best).all()
        scores = (2.0 * found - 1) @ logits
        assert (np.diff(scores) <= 1e-12).all()


def test_soft_decisions_read_what_hard_ones_cannot() -> None:
    """At 1.5 dB per code bit about 18 of 127 signs are wrong, more than the 13 that hard decisions correct."""
    code, rng = bch_code(127, 13), np.random.default_rng(2)
    soft = hard = 0
    for _ in range(40):
        codeword = code.encode(rng.integers(0, 2, code.k, dtype=np.uint8))
        logits = 2.0 * codeword - 1 + 0.95 * rng.standard_normal(code.n)
        decoded = code.decode((logits > 0).astype(np.uint8))
        hard += decoded is not None and bool((decoded[0] == codeword).all())
        soft += bool((likely_codewords(code.generator, logits)[0] == codeword).all())
    assert soft >= 32 and hard <= 20


@pytest.mark.slow
@pytest.mark.parametrize("n,t", [(127, 13), (255, 31)])
def test_the_same_as_an_independent_implementation(n: int, t: int) -> None:
    galois = pytest.importorskip("galois")
    code, rng = bch_code(n, t), np.random.default_rng(3)
    other = galois.BCH(n, code.k)
    assert other.t == t
    assert (np.asarray(other.G) == code.generator).all()
    messages = rng.integers(0, 2, (12, code.k), dtype=np.uint8)
    words = np.stack([flipped(code.encode(m), 3 * i, rng) for i, m in enumerate(messages)])
    decoded, counts = other.decode(galois.GF2(words), output="codeword", errors=True)
    for word, theirs, count in zip(words, np.asarray(decoded), counts, strict=True):
        ours = code.decode(word)
        assert (ours is None) == (count < 0)
        if ours is not None:
            assert ours[1] == count and (ours[0] == theirs).all()
