"""What is marked is found, at any size and from several pictures; what is not never is, and p-values are valid."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.stages.stega import extraction
from nerfstudio_ext.stages.stega.attacks import attack_file
from nerfstudio_ext.stages.stega.extraction import extract
from nerfstudio_ext.stages.stega.findings import Extraction
from nerfstudio_ext.stages.stega.key_contest import blind_contest, known_contest
from nerfstudio_ext.stages.stega.keys import FEATURES, Key, project, random_keys
from nerfstudio_ext.stages.stega.many_readings import best_agreements
from nerfstudio_ext.stages.stega.messages import LAYOUTS, UNCODED, Message
from nerfstudio_ext.stages.stega.payload import MAX_FALSE_ALARM, write_code
from nerfstudio_ext.stages.stega.scale_search import FACTOR_SHARES, FeatureReader, FeatureTable, View, bounded_size
from nerfstudio_ext.stages.stega.statistics import log2_loss_tail
from tests.stega.marks import KEY, OWNER, FeatureMaker, marked_pictures, numbered_views, public_extractor
from tests.stega.pictures import sample_picture

FEW_KEYS = 60
"""Random keys where only their p-value's floor, 1 in 61, is asked for."""


def look(
    *pictures: np.ndarray, key: Key = KEY, expected: tuple[Message, ...] = (), n_keys: int = FEW_KEYS
) -> Extraction:
    views = [View(str(i), picture) for i, picture in enumerate(pictures)]
    return extract(views, key, expected=expected, n_random_keys=n_keys)


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    return marked_pictures(192, 2, 38)


def made_up(monkeypatch: pytest.MonkeyPatch, maker: FeatureMaker) -> None:
    monkeypatch.setattr(extraction, "FeatureReader", lambda _extractor: maker)


def is_even(p_values: list[float], step: float) -> bool:
    """Kolmogorov and Smirnov's test against even distribution over multiples of a step, at the level of 1 %."""
    values, n = np.sort(p_values), len(p_values)
    ranks = np.arange(n)
    distance = max((values - ranks / n).max() - step, ((ranks + 1) / n - values).max())
    return distance < 1.63 / np.sqrt(n)


def test_a_marked_picture_says_its_message(marked: np.ndarray) -> None:
    found = look(marked[0])
    assert found.present and found.message == OWNER and found.layout is LAYOUTS[0]
    assert found.p_value < 1e-9 and found.p_value_random_keys == pytest.approx(1 / (FEW_KEYS + 1))
    assert found.bit_accuracy is None and not found.p_values_disagree
    (view,) = found.views
    assert view.shows_it and view.scale == 1 and view.bit_accuracy is not None and view.bit_accuracy > 0.85


def test_wrong_keys_and_unmarked_pictures_say_nothing(marked: np.ndarray) -> None:
    plain = sample_picture(192, 192, 21)
    for found in (look(marked[0], key=Key("stranger")), look(plain), look(plain, expected=(OWNER,))):
        assert not found.present and found.message is None and found.layout is None
        assert found.p_value > 1e-4 and found.n_showing == 0
        assert found.views[0].scale is None


@pytest.mark.parametrize("scale", [0.5, 0.7, 0.85, 1.3, 2.0])
def test_sizes_are_searched(marked: np.ndarray, scale: float) -> None:
    resized = attack_file("resize", marked[0], scale)
    found = look(resized)
    assert found.message == OWNER
    (view,) = found.views
    assert view.scale == pytest.approx(scale, rel=0.2)
    bits = write_code(OWNER, KEY)
    unsearched = KEY.projection(127) @ FeatureReader(public_extractor()).read(resized, 1.0)
    assert view.bit_accuracy is not None and view.bit_accuracy >= np.mean((unsearched > 0) == (bits > 0)) - 1e-9


@pytest.mark.parametrize("degrees", [-5.0, 5.0])
def test_small_rotations_are_read(marked: np.ndarray, degrees: float) -> None:
    assert look(attack_file("rotate", marked[0], degrees)).message == OWNER


def test_an_expected_message_is_recognised_where_it_cannot_be_read(marked: np.ndarray) -> None:
    ruined = attack_file("jpeg", marked[1], 55)
    other = Message.from_id("0123456789ab")
    assert not look(ruined).present
    found = look(ruined, expected=(other, OWNER))
    assert found.message == OWNER and found.bit_accuracy == found.views[0].bit_accuracy
    unknown = look(ruined, expected=(other,))
    assert not unknown.present and unknown.bit_accuracy is not None and 0.3 < unknown.bit_accuracy < 0.7


def test_several_pictures_say_what_one_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, FeatureMaker(0.5, [1.0] * 8))
    views = numbered_views(8)
    assert not any(extract([view], KEY, n_random_keys=FEW_KEYS).present for view in views[:3])
    found = extract(views, KEY, n_random_keys=FEW_KEYS)
    assert found.message == OWNER and found.p_value_random_keys == pytest.approx(1 / (FEW_KEYS + 1))


def test_features_do_not_depend_on_the_arithmetic_beyond_rounding(marked: np.ndarray) -> None:
    exact, quick = (FeatureReader(public_extractor(), is_16_bit=is_16_bit) for is_16_bit in (False, True))
    for factor in (0.7, 1.0):
        a, b = exact.read(marked[0], factor), quick.read(marked[0], factor)
        assert np.abs(a - b).max() < 0.06 and np.std(a - b) < 0.02 * np.std(a)


def test_large_pictures_are_reduced_and_long_ones_bounded() -> None:
    assert bounded_size(4000, 3000) == (1024, 768) and bounded_size(400, 300) == (400, 300)
    table = FeatureTable(FeatureMaker(0, [1.0]))  # type: ignore[arg-type]
    table.add(View("x", np.zeros((900, 3000, 3), np.uint8)))
    assert table.reductions[0] == pytest.approx(1024 / 3000, rel=0.01)
    assert table.factor(0, 2.0) is None and table.factor(0, 0.5) == 0.5
    table.add(View("small", np.zeros((64, 70, 3), np.uint8)))
    assert table.factor(1, 0.5) is None and table.factor(1, 2.0) == 2.0


def test_shares_are_paid_out_once() -> None:
    assert sum(FACTOR_SHARES.values()) == pytest.approx(1)
    together = extraction._TOGETHER + extraction._EQUAL_SIZES + extraction._OWN_FACTORS + extraction._ALONE
    assert together == pytest.approx(1)
    table = FeatureTable(FeatureMaker(0, [1.0] * 3))  # type: ignore[arg-type]
    for view in numbered_views(3, [100, 200, 150]):
        table.add(view)
    trials = [*table.trials(0.5), *table.equal_size_trials(0.125)]
    assert len({trial.factors for trial in trials}) == len(trials) and sum(t.share for t in trials) <= 0.625 + 1e-12


def test_each_picture_may_have_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = [1.0, 0.5, 2.0, 1.0, 1.4, 1.0]
    made_up(monkeypatch, FeatureMaker(0.8, factors))
    found = extract(numbered_views(6), KEY, n_random_keys=FEW_KEYS)
    assert found.message == OWNER
    assert [1 / view.scale for view in found.views if view.scale] == pytest.approx(factors)


def test_copies_of_several_sizes_are_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, FeatureMaker(0.9, [1.0, 1.6, 2.7]))
    found = extract(numbered_views(3, [216, 135, 80]), KEY, n_random_keys=FEW_KEYS)
    assert found.message == OWNER and [view.scale for view in found.views] == pytest.approx([1, 1 / 1.6, 1 / 2.7])


def test_one_good_picture_among_bad_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, FeatureMaker(2.5, [9.0, 9.0, 9.0, 9.0, 0.7, 9.0]))
    found = extract(numbered_views(6), KEY, n_random_keys=FEW_KEYS)
    assert found.message == OWNER
    assert [view.scale is not None for view in found.views] == [False] * 4 + [True, False] and found.n_showing == 1


def test_many_pictures_are_read_without_keeping_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, FeatureMaker(0.6, [0.7] * 40))
    found = extract(numbered_views(40), KEY, n_random_keys=FEW_KEYS)
    assert found.message == OWNER and {view.scale for view in found.views} == {1 / 0.7}


def test_known_messages_have_valid_p_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over keys, on features that know nothing of them: no rate is exceeded, though seven sizes are tried."""
    expected, n = (OWNER, Message.from_id("0123456789ab")), 100
    p_values = []
    for i, key in enumerate(random_keys(n, seed=7)):
        made_up(monkeypatch, FeatureMaker(0, [1.0], seed=i % 5))
        found = extract(numbered_views(1), key, expected=expected, layouts=[UNCODED], n_random_keys=1)
        p_values.append(found.p_value)
    for rate in (0.02, 0.1, 0.3):
        assert sum(p <= rate for p in p_values) <= n * rate + 3 * np.sqrt(n * rate * (1 - rate))
    assert sum(p <= 0.5 for p in p_values) > n / 20, "a bound so loose says nothing"


def test_random_keys_give_even_p_values() -> None:
    rng = np.random.default_rng(3)
    looks, words = rng.standard_normal((3, FEATURES)) * [[1], [3], [0.5]], [write_code(OWNER, KEY)]
    keys = random_keys(100, seed=-1)
    known = [known_contest(looks, words, key, n_keys=49, seed=i) for i, key in enumerate(keys)]
    assert is_even(known, step=0.02)
    blind = [blind_contest(looks[:1], LAYOUTS[0], key, None, n_keys=49, seed=i) for i, key in enumerate(keys[:60])]
    assert is_even(blind, step=0.02)


def test_the_second_p_value_stops_early_without_a_bias() -> None:
    rng = np.random.default_rng(8)
    looks, words, many = rng.standard_normal((1, FEATURES)), [write_code(OWNER, KEY)], random_keys(4000, seed=9)
    signs = 2.0 * words[0] - 1
    logits = project(many, looks[0], 127)
    agreement = logits @ signs / np.linalg.norm(logits, axis=1)
    for key in many[:20]:
        own = (logits := project([key], looks[0], 127)[0]) @ signs / np.linalg.norm(logits)
        truth, found = float(np.mean(agreement >= own)), known_contest(looks, words, key, n_keys=2000)
        assert found == pytest.approx(truth, rel=0.6, abs=0.005)


def test_ten_thousand_pictures_and_keys_raise_no_alarm() -> None:
    """Every key's best codeword on real features; the bound of the best twenty is worked out for each picture."""
    reader, layout = FeatureReader(public_extractor()), LAYOUTS[0]
    keys, smallest = random_keys(2000, seed=5), 1.0
    for seed in range(5):
        feature = reader.read(sample_picture(128, 160, 100 + seed), 1.0)
        logits = project(keys, feature, layout.n)
        best = best_agreements(layout.code.generator[: layout.free_bits], logits)
        weights = np.abs(logits)
        losses = (weights.sum(1) - best) / 2
        for i in np.argsort(losses / weights.sum(1))[:20]:
            # The share of the likeliest look; all others allow less.
            smallest = min(smallest, 4 * 2.0 ** (48 + log2_loss_tail(weights[i], losses[i])))
    assert smallest > MAX_FALSE_ALARM


def test_a_message_is_not_believed_when_random_keys_do_as_well(
    marked: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "blind_contest", lambda *_args, **_kwargs: 0.2)
    found = look(marked[0])
    assert found.p_values_disagree and not found.present and found.message is None
    assert "not believed" in found.warnings[0]


def test_what_cannot_be_looked_at() -> None:
    with pytest.raises(UserError, match="no picture"):
        extract([], KEY)
    with pytest.raises(UserError, match="60 x 90 pixels: 64 are needed"):
        look(np.zeros((90, 60, 3), np.uint8))
    with pytest.raises(UserError, match="too long and narrow"):
        look(np.zeros((64, 2000, 3), np.uint8))
    with pytest.raises(UserError, match="can be recognised, but not read"):
        extract(numbered_views(1), KEY, layouts=[UNCODED])
    with pytest.raises(UserError, match="codes of more than 128 bits"):
        extract(numbered_views(1), KEY, layouts=[LAYOUTS[-1]])
    with pytest.raises(UserError, match="does not fit"):
        extract(numbered_views(1), KEY, expected=[Message.from_text("much too long for this")])


@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_pictures_say_nothing(value: int) -> None:
    found = look(np.full((80, 90, 3), value, np.uint8))
    assert not found.present and 0 < found.p_value <= 1


def test_it_needs_no_scene() -> None:
    code = (
        "import sys, numpy as np\n"
        "from nerfstudio_ext.stages.stega.extraction import extract\n"
        "from nerfstudio_ext.stages.stega.keys import Key\n"
        "import nerfstudio_ext.stages.stega.picture_files\n"
        "from nerfstudio_ext.stages.stega.scale_search import View\n"
        "extract([View('x', np.zeros((64, 64, 3), np.uint8))], Key('k'), n_random_keys=1)\n"
        "parts = {name.split('.')[1] for name in sys.modules if name.startswith('nerfstudio_ext.')}\n"
        "print(sorted(parts & {'fields', 'methods', 'renderer', 'training', 'kernels', 'viewer'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[]\n", done.stdout + done.stderr
