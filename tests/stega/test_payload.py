"""Every message comes back exactly or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.stages.stega.keys import Key
from nerfstudio_ext.stages.stega.messages import LAYOUTS, UNCODED, Layout, Message, layout_named, smallest_layout
from nerfstudio_ext.stages.stega.payload import MAX_FALSE_ALARM, read_code, recognise, write_code
from nerfstudio_ext.stages.stega.statistics import binomial_p_value

KEY = Key("a key")
ID = Message.from_id("0123456789ab")
CODED = [layout for layout in LAYOUTS if layout.n < 511]


def example(layout: Layout) -> Message:
    return ID if layout.is_identity else Message("bytes", bytes(range(layout.max_bytes)))


def as_logits(bits: np.ndarray) -> np.ndarray:
    return 2.0 * bits - 1


def with_errors(bits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    logits = as_logits(bits)
    logits[rng.choice(len(bits), count, replace=False)] *= -1
    return logits


messages = st.one_of(
    st.binary(min_size=6, max_size=6).map(lambda data: Message("id48", data)),
    st.binary(min_size=1, max_size=13).map(lambda data: Message("bytes", data)),
    st.text(min_size=1, max_size=4).filter(lambda text: text.isprintable()).map(Message.from_text),
)


@settings(max_examples=25, deadline=None)
@given(message=messages, secret=st.binary(min_size=1, max_size=20))
def test_what_is_written_is_read(message: Message, secret: bytes) -> None:
    key = Key(secret)
    bits = write_code(message, key)
    reading = read_code(as_logits(bits), key)
    assert reading is not None and reading.message == message
    assert (reading.bits == bits).all() and reading.errors == 0
    assert reading.false_alarm <= MAX_FALSE_ALARM


def test_a_long_text_is_read_from_wide_features() -> None:
    message = Message.from_text("by Ada L., 1843 \N{COPYRIGHT SIGN}")
    bits = write_code(message, KEY)
    assert len(bits) == 511
    reading = read_code(with_errors(bits, 30, np.random.default_rng(0)), KEY)
    assert reading is not None and reading.message.text == message.text


@pytest.mark.parametrize("layout", CODED, ids=lambda layout: layout.name)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_up_to_t_errors_never_hurt(layout: Layout, data: st.DataObject) -> None:
    """Without a limit on false alarms: whether so many errors can be believed is asked separately."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    message = example(layout)
    logits = with_errors(write_code(message, KEY, layout), data.draw(st.integers(0, layout.t)), rng)
    reading = read_code(logits, KEY, max_false_alarm=1.0, layouts=[layout])
    assert reading is not None and reading.message == message


@pytest.mark.parametrize("layout", CODED, ids=lambda layout: layout.name)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_more_errors_never_give_another_message(layout: Layout, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    message = example(layout)
    errors = data.draw(st.integers(layout.t + 1, layout.n // 2))
    reading = read_code(with_errors(write_code(message, KEY, layout), errors, rng), KEY)
    assert reading is None or reading.message == message


def test_the_sphere_bound_of_identities_holds() -> None:
    """Random words lie within 13 errors of BCH(127,50) with probability 1.4e-6, and two spare bits divide it by 4."""
    layout = layout_named("id-127")
    for errors in (0, 5, 12, 13):
        logits = with_errors(write_code(ID, KEY, layout), errors, np.random.default_rng(errors))
        reading = read_code(logits, KEY, max_false_alarm=1.0, layouts=[layout])
        assert reading is not None
        expected = 2.0**48 * binomial_p_value(127 - errors, 127)
        assert reading.false_alarm == pytest.approx(expected, rel=1e-6)
    assert 2.0**50 * binomial_p_value(127 - 13, 127) == pytest.approx(1.4e-6, rel=0.05)


def test_noise_is_never_a_message() -> None:
    rng = np.random.default_rng(5)
    assert all(read_code(rng.standard_normal(128), Key(bytes([i, 1]))) is None for i in range(60))
    assert read_code(np.zeros(128), KEY) is None
    assert read_code(np.ones(128), KEY) is None


def test_a_wrong_key_reads_nothing() -> None:
    for message in (ID, Message.from_text("hi"), Message("bytes", b"\x00\xff")):
        logits = as_logits(write_code(message, KEY))
        assert all(read_code(logits, Key(f"not it {i}")) is None for i in range(8))


def test_trials_are_paid_for() -> None:
    logits = with_errors(write_code(ID, KEY), 12, np.random.default_rng(1))
    once, often = (read_code(logits, KEY, max_false_alarm=1, trials=n) for n in (1, 50))
    assert once is not None and often is not None
    assert often.false_alarm == pytest.approx(50 * once.false_alarm)
    assert once.false_alarm < 1e-6 < often.false_alarm
    assert read_code(logits, KEY, trials=50) is None


def test_unsure_bits_may_be_wrong_in_greater_number() -> None:
    rng = np.random.default_rng(7)
    bits = write_code(ID, KEY)
    logits = as_logits(bits)
    wrong = rng.choice(127, 22, replace=False)
    logits[wrong] *= -0.15
    reading = read_code(logits, KEY)
    assert reading is not None and reading.message == ID and reading.errors == 22
    assert reading.bit_accuracy == pytest.approx(105 / 127)


@pytest.mark.parametrize("layout", [*LAYOUTS, UNCODED], ids=lambda layout: layout.name)
def test_code_bits_are_balanced_whatever_is_said(layout: Layout) -> None:
    message = Message("id48" if layout.is_identity else "bytes", b"\0" * layout.max_bytes)
    ones = np.mean([write_code(message, Key(bytes([i])), layout).mean() for i in range(64)])
    assert abs(ones - 0.5) < 4 * 0.5 / np.sqrt(64 * layout.n)


def test_an_uncoded_identity_can_be_recognised_but_not_read() -> None:
    bits = write_code(ID, KEY, UNCODED)
    assert len(bits) == 48
    assert read_code(as_logits(bits), KEY, layouts=[UNCODED], max_false_alarm=1.0) is None
    others = [Message.from_id(f"{i:012x}") for i in range(20)]
    logits = with_errors(bits, 3, np.random.default_rng(0))
    found = recognise(logits, KEY, [*others, ID])
    assert found is not None and found.message == ID and found.layout is UNCODED and found.errors == 3
    assert recognise(logits, KEY, others) is None
    assert recognise(logits, Key("another"), [*others, ID]) is None


def test_identities_are_far_apart() -> None:
    """Owners of one scene are told apart by 27 bits or more: the code's minimum distance."""
    words = np.stack([write_code(Message.from_id(f"{i:012x}"), KEY) for i in range(32)])
    distance = np.count_nonzero(words[:, None] != words[None], axis=2)
    assert distance[~np.eye(32, dtype=bool)].min() >= 27


@pytest.mark.parametrize("layout", CODED, ids=lambda layout: layout.name)
def test_damaged_frames_do_not_unpack(layout: Layout) -> None:
    bits = layout.pack(example(layout))
    assert layout.unpack(bits) == example(layout)
    meaningful = range(48, layout.k) if layout.is_identity else range(layout.k)
    for position in meaningful:
        damaged = bits.copy()
        damaged[position] ^= 1
        assert layout.unpack(damaged) is None


def test_the_smallest_code_is_chosen() -> None:
    sizes = {1: 127, 5: 127, 8: 127, 9: 255, 13: 255, 14: 511, 29: 511}
    assert {n: smallest_layout(Message("bytes", b"x" * n)).n for n in sizes} == sizes
    assert smallest_layout(ID).name == "id-127"


def test_errors_name_the_limit() -> None:
    with pytest.raises(UserError, match="30 bytes; at most 29 fit"):
        smallest_layout(Message("bytes", b"x" * 30))
    with pytest.raises(UserError, match="9 bytes; at most 8 fit in 128 code bits"):
        smallest_layout(Message.from_text("123456789"), max_bits=128)
    with pytest.raises(UserError, match="'12' is not a 48-bit identity"):
        Message.from_id("12")
    with pytest.raises(UserError, match="empty"):
        Message.from_text("")
    with pytest.raises(UserError, match="no code is called 'x'"):
        layout_named("x")
    with pytest.raises(UserError, match="not finite"):
        read_code(np.full(127, np.nan), KEY)
    assert Message.from_id("0x01:23-45 67:89:AB") == ID
