"""The clock counts what it is told to count, by whatever time it is given."""

from __future__ import annotations

from nerfstudio_ext.training.clock import TrainClock


class Dial:
    """A time that moves when told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_training_time_is_that_of_the_given_dial_without_what_is_excluded():
    dial = Dial()
    clock = TrainClock(dial)
    clock.start()
    dial.seconds += 3
    assert clock.train_seconds == 3
    with clock.excluded("evaluate"):
        dial.seconds += 5
    dial.seconds += 1
    assert clock.train_seconds == 4
    assert clock.other == {"evaluate": 5}
    clock.stop()
    dial.seconds += 7
    assert clock.train_seconds == 4


def test_it_goes_on_from_an_earlier_session():
    dial = Dial()
    clock = TrainClock(dial)
    clock.set_train_seconds(40)
    clock.start()
    dial.seconds += 2
    assert clock.train_seconds == 42
