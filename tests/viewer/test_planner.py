"""Whose picture is next: simulated browsers on a simulated clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from nerfstudio_ext.viewer.planner import IDLE_S, Job, Planner, Seat, Urgency
from nerfstudio_ext.viewer.views import LatestSlot, View


@dataclass
class OpenGate:
    """A browser on a perfect link, unless told otherwise."""

    is_asleep: bool = False
    largest: int = 10**9
    ready: float = 0.0

    def ready_at(self, render_s: float, now: float) -> float:
        return float("inf") if self.is_asleep else self.ready

    def is_suspended(self, now: float) -> bool:
        return self.is_asleep

    def fits(self, n_pixels: int, is_moving: bool) -> bool:
        return n_pixels <= self.largest


class Simulation:
    """A planner, its browsers and a renderer of known speed, on one clock."""

    def __init__(self, seconds_per_pixel: float = 1e-6, n_clients: int = 1) -> None:
        self.now = 0.0
        self.planner = Planner()
        self.planner.publication = 1
        self.seconds_per_pixel = seconds_per_pixel
        self.done: list[tuple[float, Job, float]] = []
        for client_id in range(n_clients):
            slot = LatestSlot(lambda: self.now)
            self.planner.seats[client_id] = Seat(client_id, slot, OpenGate())
            self.move(client_id, 0.0)

    def move(self, client_id: int, x: float) -> None:
        self.planner.seats[client_id].slot.put(View((x, 0.1 * client_id, 1.0), (1.0, 0.0, 0.0, 0.0), 0.9, 1280, 800))

    def step(self, until: float, publish_every: float | None = None) -> None:
        """Render whatever is chosen until the given time."""
        while self.now < until:
            if publish_every is not None and self.planner.wants_publication(self.now):
                self.planner.publication += 1
            job, wait = self.planner.choose(self.now)
            if job is None:
                self.now += min(wait, publish_every or wait, until - self.now)
                continue
            seat = self.planner.seats[job.client_id]
            seat.served_at = self.now
            width, height = job.newest.view.size(job.long_side)
            seconds = self.seconds_per_pixel * width * height
            self.now += seconds
            if self.planner.train_age_s is not None:
                self.planner.train_age_s += seconds
            self.planner.ladder.add(job.long_side, width * height, seconds, self.now)
            self.planner.delivered(job, self.planner.publication, self.now)
            self.done.append((self.now, job, seconds))


def test_nothing_is_rendered_without_a_renderer_or_a_browser():
    simulation = Simulation()
    simulation.planner.publication = 0
    assert simulation.planner.choose(0.0) == (None, float("inf"))
    assert Planner(publication=1).choose(0.0) == (None, float("inf"))


def test_a_still_camera_climbs_to_full_and_then_rests():
    simulation = Simulation()
    simulation.step(5.0)
    urgencies = [job.urgency for _, job, _ in simulation.done]
    sides = [job.long_side for _, job, _ in simulation.done]
    assert urgencies == [Urgency.NEW] + [Urgency.CLIMB] * (len(sides) - 1)
    assert sides[0] == 128 and sides == sorted(set(sides)) and sides[-1] == 1024
    assert simulation.planner.choose(simulation.now) == (None, float("inf")), "nothing changes, nothing is rendered"


def test_sharpening_begins_after_60_ms_of_rest():
    simulation = Simulation()
    simulation.step(5.0)
    simulation.move(0, 0.5)
    moved_at = simulation.now
    simulation.step(moved_at + 3)
    news = [(at, job) for at, job, _ in simulation.done if at > moved_at]
    starts = [at - seconds for at, job, seconds in simulation.done if at > moved_at and job.urgency is Urgency.CLIMB]
    assert news[0][1].urgency is Urgency.NEW
    assert starts[0] == pytest.approx(moved_at + max(IDLE_S, news[0][0] - moved_at))
    assert news[-1][1].long_side == 1024


def test_a_moving_camera_gets_frames_within_the_budget():
    simulation = Simulation()
    simulation.step(5.0)
    simulation.done.clear()
    start = simulation.now
    for i in range(100):
        simulation.move(0, 0.01 * (i + 1))
        simulation.step(start + 0.02 * (i + 1))
    steady = [(job, seconds) for _, job, seconds in simulation.done]
    assert all(job.urgency is Urgency.NEW for job, _ in steady)
    assert all(seconds <= 0.125 for _, seconds in steady)
    assert steady[-1][0].long_side >= 256, "the largest that fits, not the smallest"


def test_moving_browsers_take_turns():
    simulation = Simulation(n_clients=8)
    simulation.step(20.0)
    simulation.done.clear()
    start = simulation.now
    for i in range(400):
        for client_id in range(8):
            simulation.move(client_id, 0.01 * (i + 1))
        simulation.step(start + 0.02 * (i + 1))
    counts = [sum(job.client_id == c for _, job, _ in simulation.done) for c in range(8)]
    assert min(counts) >= 0.9 * max(counts)
    assert min(counts) >= 8 * 5, "each still gets a few frames per second"


def test_a_new_camera_goes_before_sharpening_of_another():
    simulation = Simulation(n_clients=2)
    simulation.step(0.02)
    simulation.move(1, 3.0)
    job, _ = simulation.planner.choose(simulation.now + 10)
    assert (job.client_id, job.urgency) == (1, Urgency.NEW)


def test_refreshing_takes_at_most_three_percent_of_training():
    simulation = Simulation(seconds_per_pixel=2e-6)
    simulation.planner.train_age_s = 0.0
    simulation.step(1.0)
    simulation.done.clear()
    for second in range(1, 301):
        simulation.planner.train_age_s = float(second)
        simulation.step(float(second + 1), publish_every=0.25)
    spent = sum(seconds for _, _, seconds in simulation.done)
    assert 0.005 * 300 < spent <= 0.035 * 300
    times = [at for at, _, _ in simulation.done]
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 1.5
    sides = [job.long_side for _, job, _ in simulation.done]
    assert sides == sorted(sides) and sides[-1] > sides[0], "pictures grow while the scene matures"


def test_several_still_browsers_share_the_refresh_budget():
    simulation = Simulation(seconds_per_pixel=2e-6, n_clients=4)
    simulation.planner.train_age_s = 100.0
    simulation.step(20.0)
    simulation.done.clear()
    start = simulation.now
    simulation.step(start + 200.0, publish_every=0.25)
    assert sum(seconds for _, _, seconds in simulation.done) <= 0.035 * 200


def test_after_training_the_picture_sharpens_fully():
    simulation = Simulation(seconds_per_pixel=5e-6)
    simulation.planner.train_age_s = 10.0
    simulation.step(5.0, publish_every=0.25)
    assert simulation.done[-1][1].long_side < 1024
    simulation.planner.train_age_s = None
    simulation.step(simulation.now + 20.0)
    assert simulation.done[-1][1].long_side == 1024


def test_somebody_who_moved_gets_a_sharp_picture_even_in_a_young_scene():
    simulation = Simulation(seconds_per_pixel=1e-6)
    simulation.planner.train_age_s = 1.0
    simulation.step(1.0)
    assert simulation.done[-1][1].long_side <= 384
    simulation.move(0, 0.7)
    assert simulation.planner.is_interactive(simulation.now)
    simulation.step(simulation.now + 4.0)
    assert simulation.done[-1][1].long_side == 1024
    assert not simulation.planner.is_interactive(simulation.now)


def test_sleeping_browsers_cost_nothing_and_awake_ones_go_on():
    simulation = Simulation(n_clients=2)
    simulation.planner.seats[0].gate.is_asleep = True
    simulation.step(3.0)
    assert {job.client_id for _, job, _ in simulation.done} == {1}
    simulation.move(0, 1.0)
    assert not simulation.planner.is_interactive(simulation.now)
    assert not simulation.planner.wants_publication(simulation.now + 100) or simulation.planner.seats[1].is_settled


def test_a_thin_link_limits_the_size():
    simulation = Simulation(seconds_per_pixel=1e-9)
    simulation.planner.seats[0].gate.largest = 256 * 160
    simulation.step(3.0)
    assert simulation.done[-1][1].long_side == 256


def test_equal_views_share_one_picture():
    simulation = Simulation(n_clients=2)
    view = simulation.planner.seats[0].slot.newest.view
    simulation.planner.seats[1].slot.put(view)
    job, _ = simulation.planner.choose(0.0)
    assert [twin.client_id for twin in simulation.planner.twins(job, 0.0)] == [1 - job.client_id]
    simulation.move(1, 9.0)
    assert simulation.planner.twins(job, 0.0) == []


def test_a_new_output_shows_every_view_again():
    simulation = Simulation()
    simulation.step(5.0)
    simulation.planner.generation += 1
    job, _ = simulation.planner.choose(simulation.now)
    assert job is not None and job.urgency is Urgency.NEW


def test_weights_are_wanted_only_when_somebody_would_see_them():
    simulation = Simulation()
    simulation.planner.train_age_s = 50.0
    simulation.step(3.0)
    assert simulation.planner.wants_publication(simulation.now + 30)
    simulation.planner.seats[0].gate.is_asleep = True
    assert not simulation.planner.wants_publication(simulation.now + 30)
    simulation.planner.seats.clear()
    assert not simulation.planner.wants_publication(simulation.now + 30)


def test_a_shrunken_size_limit_is_obeyed():
    simulation = Simulation()
    simulation.step(5.0)
    simulation.planner.max_side = 300
    simulation.planner.generation += 1
    simulation.done.clear()
    simulation.step(simulation.now + 3)
    assert max(job.long_side for _, job, _ in simulation.done) == 300
