"""Rungs are chosen from medians of measured times, never from renders that say nothing."""

from __future__ import annotations

import pytest

from nerfstudio_ext.viewer.ladder import N_IGNORED, RUNGS, Ladder

PIXELS = {rung: rung * rung * 5 // 8 for rung in RUNGS if rung <= 1024}


def measured(times: dict[int, float], repeats: int = 3, now: float = 0.0) -> Ladder:
    """A ladder that has seen renders of given seconds per rung."""
    ladder = Ladder()
    for _ in range(N_IGNORED):
        ladder.add(128, PIXELS[128], 100.0, now)
    for rung, seconds in times.items():
        for _ in range(repeats):
            ladder.add(rung, PIXELS[rung], seconds, now)
    return ladder


def test_the_first_renders_are_ignored():
    ladder = measured({})
    assert ladder.estimate(128, PIXELS[128], 0.0) is None


def test_the_median_forgives_one_hiccup():
    ladder = measured({256: 0.02}, repeats=5)
    ladder.add(256, PIXELS[256], 3.0, 0.0)
    assert ladder.estimate(256, PIXELS[256], 0.0) == pytest.approx(0.02)


def test_larger_rungs_are_inferred_by_pixels_but_never_from_quick_renders():
    assert measured({256: 0.02}).estimate(512, PIXELS[512], 0.0) == pytest.approx(0.08)
    assert measured({256: 0.008}).estimate(512, PIXELS[512], 0.0) is None


def test_old_times_give_way_to_new_ones():
    ladder = measured({512: 2.0, 256: 0.5}, now=0.0)
    ladder.add(256, PIXELS[256], 0.05, 100.0)
    assert ladder.estimate(512, PIXELS[512], 100.0) == pytest.approx(0.2)
    assert measured({512: 2.0}).estimate(512, PIXELS[512], 1e4) == pytest.approx(2.0), "old is better than nothing"


def test_moving_takes_the_largest_rung_in_the_budget():
    ladder = measured({rung: PIXELS[rung] * 1e-6 for rung in PIXELS})
    # 256 x 160 x 1 us = 41 ms, 384 -> 92 ms, 512 -> 164 ms
    assert ladder.moving_rung(PIXELS, 0.1, 384, 0.0) == 384
    assert ladder.moving_rung(PIXELS, 0.1, 256, 0.0) == 256, "92 ms is inside the hysteresis: no step up"
    assert ladder.moving_rung(PIXELS, 0.013, 512, 0.0) == 128
    assert ladder.moving_rung(PIXELS, 0.0001, 128, 0.0) == 128, "the floor stays whatever it costs"


def test_unknown_ground_is_entered_one_rung_at_a_time():
    ladder = measured({128: 0.002})
    assert ladder.moving_rung(PIXELS, 0.1, 128, 0.0) == 192
    ladder.add(192, PIXELS[192], 0.003, 0.0)
    assert ladder.moving_rung(PIXELS, 0.1, 192, 0.0) == 256
    assert Ladder().moving_rung(PIXELS, 0.1, 0, 0.0) == 128


def test_no_feedback_down_to_mush():
    """A slow spell must not keep the resolution low for ever."""
    ladder = measured({128: 0.4, 192: 0.9})
    assert ladder.moving_rung(PIXELS, 0.1, 192, 0.0) == 128
    now = 20.0
    for _ in range(8):
        ladder.add(128, PIXELS[128], 0.011, now)
    assert ladder.moving_rung(PIXELS, 0.1, 128, now) >= 256


def test_static_limit():
    ladder = measured({rung: PIXELS[rung] * 1e-6 for rung in PIXELS})
    assert ladder.static_rung(PIXELS, float("inf"), 0.0) == 1024
    assert ladder.static_rung(PIXELS, 0.05, 0.0) == 256
    assert ladder.static_rung(PIXELS, 0.0, 0.0) == 128


def test_an_inferred_time_is_doubted_before_it_forbids_a_rung():
    ladder = measured({128: 0.1})
    assert ladder.static_rung(PIXELS, 0.15, 0.0) == 256, "inferred 0.4 s, allowed 0.15 s: tried once"
    ladder.add(256, PIXELS[256], 0.4, 0.0)
    assert ladder.static_rung(PIXELS, 0.15, 0.0) == 192


def test_climbing_doubles_the_side_and_jumps_when_that_is_quick():
    slow = measured({128: 0.1})
    assert slow.climb(PIXELS, 128, 1024, 0.0) == 256
    assert slow.climb(PIXELS, 256, 1024, 0.0) == 512
    assert slow.climb(PIXELS, 512, 1024, 0.0) == 1024
    assert slow.climb({**PIXELS, 640: 640 * 400}, 256, 640, 0.0) == 640, "512 is too near to be worth a stop"
    quick = measured(dict.fromkeys(PIXELS, 0.0001))
    assert quick.climb(PIXELS, 128, 1024, 0.0) == 1024
    assert slow.climb(PIXELS, 512, 512, 0.0) == 512


@pytest.mark.parametrize(("cap", "expected"), [(100, [100]), (128, [128]), (300, [128, 192, 256, 300])])
def test_the_cap_is_the_last_rung(cap, expected):
    assert Ladder().rungs(cap) == expected
