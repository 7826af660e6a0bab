"""Find a message in pictures: no scene, no camera, no photos, only the key.

Pictures of one scene are averaged before anything is decided. Every look (size, choice of pictures, code) has a share
of the false alarms that are allowed in all, so that the search is paid for; the likely ones come first, and the first
that is convincing ends it. What is found is then held against what random keys find on the very same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...progress import Progress, SilentProgress
from .extractor import Extractor, load_extractor
from .findings import Extraction, ViewFinding
from .key_contest import blind_contest, known_contest
from .keys import FEATURES, Key
from .messages import LAYOUTS, UNCODED, Layout, Message, smallest_layout
from .one_thread import one_thread
from .payload import MAX_FALSE_ALARM, Reading, fits, read_code, recognise, write_code
from .scale_search import FACTOR_SHARES, FeatureReader, FeatureTable, Trial, View
from .statistics import DISAGREEMENT, RANDOM_KEYS, log2_sign_tail

_TOGETHER, _EQUAL_SIZES, _OWN_FACTORS, _ALONE = 1 / 2, 1 / 8, 1 / 4, 1 / 8
"""Shares of looking at several pictures at one factor, as if they had been of one size, each at its own factor, and at
each alone. Most sets come from one source."""
_ALONE_AT_MOST = 32
"""Pictures that are also looked at one by one; of more, the mean says it."""
_CLIMBERS = 4
"""Pictures that decide whether another size fits better."""
_CONTEST_LOOKS = len(FACTOR_SHARES)
"""Looks that random keys take too, beside the one that found something: all of a single picture's."""
_HINT = 0.05
"""P-value below which the accuracy of an expected message is given where it reads best, and not at the usual look."""
_ROUNDS = 3
"""Of choosing each picture's factor by the message and the message by the factors; the choice settles in two."""


def extract(
    views: Iterable[View], key: Key, *, extractor: Extractor | None = None, expected: Sequence[Message] = (),
    layouts: Sequence[Layout] | None = None, max_false_alarm: float = MAX_FALSE_ALARM, n_random_keys: int = RANDOM_KEYS,
    progress: Progress | None = None,
) -> Extraction:  # fmt: skip
    """Read the message of pictures that show one scene.

    Args:
        views: One or more pictures; sizes may differ.
        key: The key it was written with.
        extractor: None for the public one.
        expected: Messages in question: they need far fewer bits to be recognised than a message that is not known.
        layouts: Codes it may be written in; None for all. The uncoded one is only recognised, never read.
        max_false_alarm: Largest bound on false alarms that is believed.
        n_random_keys: At most, for the second p-value, which cannot be below 1 / (n + 1).
        progress: Receives one stage.
    Raises:
        UserError: if there is no picture, one is too small, or nothing could be read with these codes.
    """
    codes = _usable(layouts, expected)
    progress = progress or SilentProgress()
    progress.stage("look at pictures")
    with one_thread():
        table = FeatureTable(FeatureReader(extractor or load_extractor()))
        for view in views:
            table.add(view)
            progress.advance(len(table), view.name)
        if not len(table):
            raise UserError("there is no picture to look at", fix="Pass a picture or a folder of pictures")
        search = _Search(key, tuple(expected), codes, max_false_alarm)
        _look_at_all(search, table)
        return _conclude(search, table, n_random_keys)


def _usable(layouts: Sequence[Layout] | None, expected: Sequence[Message]) -> tuple[Layout, ...]:
    codes = tuple(layout for layout in layouts or (UNCODED, *LAYOUTS) if layout.n <= FEATURES)
    if not codes:
        raise UserError(
            f"codes of more than {FEATURES} bits do not fit this extractor", where="--code", fix="Give a smaller number"
        )
    if not expected and not any(layout.is_coded for layout in codes):
        raise UserError(
            f"the code {UNCODED.name} has no check bits: it can be recognised, but not read", where="--code",
            fix="Say which identity you expect with --expect",
        )  # fmt: skip
    most = max((layout.max_bytes for layout in codes if not layout.is_identity), default=0)
    for message in expected:
        if not any(fits(message, layout) for layout in codes):
            raise UserError(
                f"'{message.text}' does not fit the codes of this extractor", where="--expect",
                fix="Expect 12 hexadecimal digits" + (f", or at most {most} bytes" if most else ""),
            )  # fmt: skip
    return codes


class _Search:
    """The looks taken so far, and the most convincing reading among them."""

    def __init__(self, key: Key, expected: tuple[Message, ...], codes: tuple[Layout, ...], limit: float) -> None:
        self.key, self.expected, self.codes, self._limit = key, expected, codes, limit
        self.trials: list[Trial] = []
        self.reading: Reading | None = None
        self.trial: Trial | None = None
        self.is_known = False
        """Whether the reading is of an expected message."""
        self._projection = key.projection(max(layout.n for layout in codes)).astype(np.float64)

    @property
    def is_convinced(self) -> bool:
        return self.reading is not None and self.reading.false_alarm <= self._limit

    def usual_code(self, message: Message) -> Layout:
        """The code a message is most likely written in, of those that are looked for."""
        fitting = [layout for layout in self.codes if fits(message, layout)]
        usual = smallest_layout(message)
        return usual if usual in fitting else fitting[0]

    def logits(self, feature: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N] of code bits."""
        return self._projection @ feature

    def look(self, trial: Trial | None) -> bool:
        """Take one more look; returns whether the search is over."""
        if trial is None:
            return False
        self.trials.append(trial)
        logits = self.logits(trial.feature)
        trials = (2 if self.expected else 1) / trial.share
        read = read_code(logits, self.key, max_false_alarm=1.0, trials=trials, layouts=self.codes)
        self._take(read, trial, is_known=False)
        if self.expected:
            known = recognise(logits, self.key, self.expected, max_false_alarm=1.0, trials=trials, layouts=self.codes)
            self._take(known, trial, is_known=True)
        return self.is_convinced

    def _take(self, reading: Reading | None, trial: Trial, *, is_known: bool) -> None:
        if reading is None or (self.reading is not None and self.reading.false_alarm <= reading.false_alarm):
            return
        self.reading, self.trial, self.is_known = reading, trial, is_known


def _look_at_all(search: _Search, table: FeatureTable) -> None:
    """Every look there is, until one is convincing."""
    together = 1.0 if len(table) == 1 else _TOGETHER
    if any(search.look(trial) for trial in table.trials(together)):
        _climb(search, table, together)
        return
    if len(table) == 1:
        return
    if any(search.look(trial) for trial in table.equal_size_trials(_EQUAL_SIZES)):
        return
    if _look_at_own_factors(search, table):
        return
    if len(table) <= _ALONE_AT_MOST:
        for index in range(len(table)):
            share = _ALONE / len(table)
            wanted = ([f if i == index else 0.0 for i in range(len(table))] for f in FACTOR_SHARES)
            looks = zip(wanted, FACTOR_SHARES.values(), strict=True)
            if any(search.look(table.trial(factors, share * own)) for factors, own in looks):
                return


def _climb(search: _Search, table: FeatureTable, share: float) -> None:
    """Once a message is found, go on to neighbouring factors while it stands out more there.

    A clear mark is found at the first look though the picture has been resized; this finds its true size. A few
    pictures decide. Every factor has its share already, so that nothing more is to be paid.
    """
    assert search.reading is not None and search.trial is not None and search.trial.common is not None
    sample = range(0, len(table), -(-len(table) // _CLIMBERS))
    factors, bits = sorted(FACTOR_SHARES), search.reading.bits
    seen: dict[int, float] = {}

    def agreement(place: int) -> float:
        if place not in seen:
            features = [table.feature(i, factors[place]) for i in sample] if 0 <= place < len(factors) else [None]
            known = [feature for feature in features if feature is not None]
            seen[place] = _agreement(search.logits(np.mean(known, axis=0)), bits) if known else -math.inf
        return seen[place]

    start = place = factors.index(search.trial.common)
    while (best := max((place, place - 1, place + 1), key=agreement)) != place:
        place = best
    if place != start:
        search.look(table.trial([factors[place]] * len(table), share * FACTOR_SHARES[factors[place]]))


def _look_at_own_factors(search: _Search, table: FeatureTable) -> bool:
    """Let a first guess at the message choose each picture's factor, and read again.

    Any choice of factors counts as a look, with the product of the factors' shares as its own.
    """
    if search.reading is None:
        return False
    factors: list[float] = []
    for _ in range(_ROUNDS):
        bits = search.reading.bits
        chosen = [_best_factor(search, table, index, bits) for index in range(len(table))]
        if chosen == factors:
            break
        factors = chosen
        share = math.prod(FACTOR_SHARES[factor] for factor in factors)
        if share * _OWN_FACTORS < 1e-30:  # nothing could be believed at this price
            break
        if search.look(table.trial(factors, share * _OWN_FACTORS)):
            return True
    return False


def _best_factor(search: _Search, table: FeatureTable, index: int, bits: NDArray[np.uint8]) -> float:
    def agreement(wanted: float) -> float:
        feature = table.feature(index, wanted)
        return -math.inf if feature is None else _agreement(search.logits(feature), bits)

    return max(FACTOR_SHARES, key=agreement)


def _agreement(logits: NDArray[np.float64], bits: NDArray[np.uint8]) -> float:
    """Standard deviations by which the logits agree better with bits than random signs would."""
    part = logits[: len(bits)]
    return float(part @ (2.0 * bits - 1.0) / max(float(np.linalg.norm(part)), 1e-12))


def _conclude(search: _Search, table: FeatureTable, n_random_keys: int) -> Extraction:
    reading = search.reading
    p_value = reading.false_alarm if reading is not None else 1.0
    by_keys = _random_key_p_value(search, n_random_keys)
    floor = 1 / (n_random_keys + 1)
    disagrees = by_keys > DISAGREEMENT * max(p_value, floor)
    is_present = search.is_convinced and not disagrees
    warnings = []
    if search.is_convinced and disagrees:
        warnings.append(
            f"random keys do as well on these pictures more often ({by_keys:.2g}) than theory allows ({p_value:.2g}): "
            "the message is not believed"
        )
    elif not is_present and by_keys <= floor:
        warnings.append("the key does better than all random ones, but too little to be believed: give more pictures")
    bits, trial, accuracy = _in_question(search, is_present)
    return Extraction(
        present=is_present,
        message=reading.message if is_present and reading is not None else None,
        layout=reading.layout if is_present and reading is not None else None,
        bit_accuracy=accuracy,
        p_value=p_value,
        p_value_random_keys=by_keys,
        p_values_disagree=disagrees,
        views=tuple(_finding(search, table, index, bits, trial, is_present) for index in range(len(table))),
        warnings=tuple(warnings),
    )


def _random_key_p_value(search: _Search, n_keys: int) -> float:
    looks = [trial for trial in search.trials[:_CONTEST_LOOKS] if trial is not search.trial]
    features = np.stack([trial.feature for trial in (*looks, search.trial) if trial is not None])
    if search.is_known and search.reading is not None:
        words = [write_code(m, search.key, c) for m in search.expected for c in search.codes if fits(m, c)]
        return known_contest(features, words, search.key, n_keys=n_keys)
    layout = search.reading.layout if search.reading is not None else next(c for c in search.codes if c.is_coded)
    return blind_contest(features, layout, search.key, search.reading, n_keys=n_keys)


def _in_question(search: _Search, is_present: bool) -> tuple[NDArray[np.uint8] | None, Trial, float | None]:
    """Code bits to hold the pictures against, at which look, and the accuracy of what was expected there."""
    reading, trial = search.reading, search.trials[0]
    bits = accuracy = None
    is_hint = search.is_known and reading is not None and reading.false_alarm < _HINT
    if reading is not None and search.trial is not None and (is_present or is_hint):
        bits, trial = reading.bits, search.trial
    if search.expected:
        logits = search.logits(trial.feature)
        known = [write_code(message, search.key, search.usual_code(message)) for message in search.expected]
        expected = max(known, key=lambda word: _accuracy(logits, word))
        if bits is None or (reading is not None and reading.message in search.expected):
            expected = bits = expected if bits is None else bits
        accuracy = _accuracy(logits, expected)
    return bits, trial, accuracy


def _accuracy(logits: NDArray[np.float64], bits: NDArray[np.uint8]) -> float:
    return float(np.mean((logits[: len(bits)] > 0) == (bits > 0)))


def _finding(
    search: _Search, table: FeatureTable, index: int, bits: NDArray[np.uint8] | None, trial: Trial, is_present: bool
) -> ViewFinding:
    name, factor = table.names[index], trial.factors[index]
    feature = table.feature(index, factor) if factor else None
    if bits is None or feature is None:
        return ViewFinding(name, None, None, None, None)
    logits = search.logits(feature)[: len(bits)]
    weight = float(np.abs(logits).sum())
    return ViewFinding(
        name,
        scale=1 / (factor * table.reductions[index]) if is_present else None,
        bit_accuracy=_accuracy(logits, bits),
        p_value=2.0 ** log2_sign_tail(logits, bits),
        confidence=float(logits @ (2.0 * bits - 1.0)) / weight if weight else 0.0,
    )
