"""Where a training of GNT across scenes begins: at weights that already compare the views of a point.

From random weights the first thousands of steps only find out that a surface point looks alike in all views. That much
can be written down: the first view block reads mean, softened largest and softened smallest colour over the views (a
softmax with the colour itself as logit), their difference is small where views agree, and a ray block with its negative
as key puts the attention there. The second view block repeats this with views that differ from the first answer held
back, as hidden ones do. Everything else begins small and random, so that training can use it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..fields.feature_net import FeatureNet
from ..fields.gnt_blocks import RayBlock, ViewBlock
from ..fields.gnt_weights import GntModel

LEAST_WIDTH, LEAST_DEPTH = 64, 2
CARRIER = 80.0
"""Two channels hold plus and minus this: the norms then hardly depend on the others, and pass these on as they are.
With 20 the computed validation scenes lost 1 dB."""
FREE = 0.05
"""Factor on the random weights that are left."""

MEAN, HIGH, LOW = slice(0, 3), slice(3, 6), slice(6, 9)
FEATURE_HIGH, FEATURE_LOW = slice(9, 13), slice(13, 17)
PLACE = 17
FINAL, FIRST_ANSWER = slice(18, 21), slice(24, 27)
WHITE, DARK, PERFECT = 21, 22, 23
AGREED, AGREED_HIGH, AGREED_LOW = slice(27, 30), slice(30, 33), slice(33, 36)
COLOR, FEATURES = slice(40, 43), slice(44, 48)
UNSEEN = 49
ZERO, PLUS, MINUS = 61, 62, 63
"""Channels of a token: mean, softened extremes of colours and of four features over the views; what the rays answer;
how white and how black the mean is, whether nothing differs at all; the same again for views that agree; what a view
shows; whether one does not see the point; nothing; the carriers."""

TILT, FEATURE_TILT = 6.0, 0.5
"""Sharpness of the softened extremes, per unit of colour and of feature."""
NEARNESS = 6.0
"""Weight of a view by the cosine between its direction and the ray's."""
COLOR_NEARNESS = 24.0
"""The same where colours are averaged: what is near looks alike, and errors of depth matter less."""
EARLIER = 0.5
"""Share of the first block's disagreement that the rays go on counting."""
AGREEMENT = 12.0
"""Weight lost by a view per unit of colour that it differs from the first answer."""
SHARPNESS = (12.0, 25.0, 25.0, 50.0)
"""Attention lost per unit of disagreement, by head."""
FEATURE_SHARPNESS = 0.15
"""The same per unit of features, times that of the head."""
UNSEEN_SHARPNESS = 16.0
"""Attention lost where a view sees nothing (or black): one view alone always agrees with itself."""
DARK_SHARPNESS = 40.0
"""The same where no view sees anything."""
PERFECT_BELOW, PERFECT_FEATURES, PERFECT_SHARPNESS = 0.3, 0.3, 30.0
"""Sum of the differences over colours, and this share of those over features, below which agreement is too good to be
a surface, and attention lost there: a view always agrees with itself, and air before a plain background with all."""
WHITE_FROM, WHITE_SHARPNESS = 2.7, 30.0
"""Sum of the channels above which a mean counts as white, and attention lost per unit above it: before a white
background all views agree on the air around a thing, too."""


def start_sweeping(model: GntModel) -> bool:
    """Set the weights; networks too small for it are left alone, and the answer is False."""
    net = model.net_coarse
    if net.width < LEAST_WIDTH or net.depth < LEAST_DEPTH:
        return False
    first, last = net.view_crosstrans[0], net.view_crosstrans[net.depth - 1]
    ray_first, ray_last = net.view_selftrans[0], net.view_selftrans[net.depth - 1]
    assert isinstance(first, ViewBlock) and isinstance(last, ViewBlock)
    assert isinstance(ray_first, RayBlock) and isinstance(ray_last, RayBlock)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(FREE)
        _start_input(net.rgbfeat_fc, model.feature_net)
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(CARRIER * math.sqrt(2 / net.width))
                module.weight[[PLUS, MINUS]] = 1.0
        for layers in net.q_fcs:
            if isinstance(layers, nn.Sequential):
                _pass_on(layers, net.width)
        _start_views(first)
        _start_agreeing_views(last)
        _start_rays(ray_first, MEAN, FIRST_ANSWER, (HIGH, LOW))
        _start_rays(ray_last, AGREED, FINAL, (AGREED_HIGH, AGREED_LOW))
        net.rgb_fc.weight[:] = 0
        net.rgb_fc.weight[range(3), range(FINAL.start, FINAL.stop)] = 1
        net.rgb_fc.weight[:, ZERO] = -1
        net.rgb_fc.bias.zero_()
    return True


def _pair(layers: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    before, after = layers[0], layers[2]  # type: ignore[index]
    assert isinstance(before, nn.Linear) and isinstance(after, nn.Linear)
    return before, after


def _set(weight: Tensor, rows: slice, columns: slice, value: float) -> None:
    """A diagonal block; the rest of the rows becomes zero."""
    n = rows.stop - rows.start
    weight[rows] = 0
    weight[range(rows.start, rows.stop), range(columns.start, columns.start + n)] = value


def _start_input(layers: nn.Module, features: FeatureNet) -> None:
    """Colours pass the ReLU as they are, four features as positive and negative part; the carriers are biases."""
    before, after = _pair(layers)
    before.weight[:12] = 0
    before.bias[:12] = 0
    before.weight[11, :3], before.bias[11] = -20, 1
    before.weight[range(3), range(3)] = 1
    for i in range(4):
        before.weight[3 + i, 3 + i], before.weight[7 + i, 3 + i] = 1, -1
    for rows in (slice(0, 36), slice(ZERO, MINUS + 1)):
        after.weight[rows], after.bias[rows] = 0, 0
    after.bias[PLUS], after.bias[MINUS] = CARRIER, -CARRIER
    _set(after.weight, COLOR, slice(0, 3), 1)
    _set(after.weight, FEATURES, slice(3, 7), 1)
    after.weight[range(FEATURES.start, FEATURES.stop), range(7, 11)] = -1
    after.weight[UNSEEN], after.bias[[*range(COLOR.start, FEATURES.stop), UNSEEN]] = 0, 0
    after.weight[UNSEEN, 11] = 1


def _pass_on(layers: nn.Module, width: int) -> None:
    """Tokens as they are: what can be negative is lifted over the ReLU and put back."""
    before, after = _pair(layers)
    before.weight[:, :width] = torch.eye(width)
    before.weight[: COLOR.start, width:], before.weight[ZERO:, width:] = 0, 0  # where a point lies says nothing yet
    after.weight.copy_(torch.eye(width))
    lift = torch.full((width,), 2.0)
    lift[: FEATURE_HIGH.start] = 0
    lift[FINAL], lift[WHITE], lift[FIRST_ANSWER], lift[AGREED.start : AGREED_LOW.stop], lift[COLOR] = 0, 0, 0, 0, 0
    lift[FEATURE_HIGH.start : FEATURE_LOW.stop], lift[FEATURES], lift[MINUS] = 6, 6, CARRIER + 2
    before.bias.copy_(lift)
    after.bias.copy_(-lift)


def _quiet(block: ViewBlock | RayBlock) -> None:
    """Keep random updates away from the channels that have a meaning."""
    for weight, bias in ((block.ff.fc2.weight, block.ff.fc2.bias), (block.attn.out_fc.weight, block.attn.out_fc.bias)):
        weight[: COLOR.start], bias[: COLOR.start] = 0, 0
        weight[ZERO:], bias[ZERO:] = 0, 0


def _start_views(block: ViewBlock) -> None:
    """Mean, softened largest and smallest of colours and features over the views."""
    _quiet(block)
    attention = block.attn
    _start_keys(block)
    reads = ((MEAN, 0, 3), (HIGH, 0, 3), (LOW, 0, 3), (FEATURE_HIGH, 4, 4), (FEATURE_LOW, 4, 4),
             (slice(DARK, DARK + 1), 8, 1))  # fmt: skip
    for rows, column, n in reads:
        _set(attention.v_fc.weight, rows, slice(column, column + n), 1)
        _set(attention.out_fc.weight, rows, rows, 1)
    units, logits = _pair(attention.attn_fc)
    units.weight[:], units.bias[:], logits.weight[:], logits.bias[:] = 0, 0, 0, 0
    _set(units.weight, slice(0, 3), slice(0, 3), 1)
    units.weight[3, PLACE] = 1
    _set(units.weight, slice(4, 8), slice(4, 8), 1)
    units.bias[4:8] = 4.0
    attention.q_fc.weight[:8], attention.q_fc.weight[PLACE] = 0, 0
    logits.weight[:, 3] = NEARNESS
    block.ff.fc1.weight[0], block.ff.fc1.bias[0] = 0, -WHITE_FROM
    block.ff.fc1.weight[0, MEAN], block.ff.fc1.weight[0, ZERO] = 1, -3
    _start_perfect(block)
    block.ff.fc2.weight[:, 0] = 0
    block.ff.fc2.weight[WHITE, 0] = 1
    for i in range(3):
        logits.weight[HIGH.start + i, i], logits.weight[LOW.start + i, i] = TILT, -TILT
    for i in range(4):
        logits.weight[FEATURE_HIGH.start + i, 4 + i] = FEATURE_TILT
        logits.weight[FEATURE_LOW.start + i, 4 + i] = -FEATURE_TILT


def _start_perfect(block: ViewBlock) -> None:
    """One where the extremes are the same, falling to zero where they differ as they do on surfaces."""
    before, after = block.ff.fc1, block.ff.fc2
    before.weight[1], before.bias[1] = 0, 1
    for high, low, share in ((HIGH, LOW, 1.0), (FEATURE_HIGH, FEATURE_LOW, PERFECT_FEATURES)):
        before.weight[1, high], before.weight[1, low] = -share / PERFECT_BELOW, share / PERFECT_BELOW
    after.weight[:, 1] = 0
    after.weight[PERFECT, 1] = 1


def _start_agreeing_views(block: ViewBlock) -> None:
    """The same for colours, with views held back by how far they are from the first answer."""
    _quiet(block)
    attention = block.attn
    _start_keys(block)
    for rows in (AGREED, AGREED_HIGH, AGREED_LOW):
        _set(attention.v_fc.weight, rows, slice(0, 3), 1)
        _set(attention.out_fc.weight, rows, rows, 1)
    _set(attention.q_fc.weight, slice(0, 3), FIRST_ANSWER, 1)
    attention.q_fc.weight[:3, ZERO] = -1
    attention.q_fc.weight[PLACE] = 0
    units, logits = _pair(attention.attn_fc)
    units.weight[:], units.bias[:], logits.weight[:], logits.bias[:] = 0, 0, 0, 0
    _set(units.weight, slice(0, 3), slice(0, 3), 1)
    _set(units.weight, slice(3, 6), slice(0, 3), -1)
    units.weight[6, PLACE] = 1
    logits.weight[:, :6] = -AGREEMENT
    logits.weight[:, 6] = NEARNESS
    logits.weight[AGREED, 6] = COLOR_NEARNESS
    for i in range(3):
        for rows, sign in ((AGREED_HIGH, 1), (AGREED_LOW, -1)):
            logits.weight[rows.start + i, i] += sign * TILT
            logits.weight[rows.start + i, 3 + i] -= sign * TILT


def _start_keys(block: ViewBlock) -> None:
    """Keys hold what the view shows; the code of directions holds the cosine alone, in a channel without a value."""
    attention = block.attn
    weight = attention.k_fc.weight
    weight[:36] = 0
    _set(weight, slice(0, 3), COLOR, 1)
    _set(weight, slice(4, 8), FEATURES, 1)
    _set(weight, slice(8, 9), slice(UNSEEN, UNSEEN + 1), 1)
    attention.v_fc.weight[:36], attention.v_fc.weight[ZERO:] = 0, 0
    before, after = _pair(attention.pos_fc)
    before.weight[0], before.bias[0] = torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.0
    after.weight[:36], after.bias[:36] = 0, 0
    after.weight[PLACE, 0] = 1


def _start_rays(block: RayBlock, shown: slice, answer: slice, extremes: tuple[slice, slice]) -> None:
    """Attend to samples where the views agree, and take the mean colour there."""
    _quiet(block)
    attention = block.attn
    size = attention.q_fc.weight.shape[0] // len(SHARPNESS)
    carried = math.sqrt(attention.q_fc.weight.shape[0] / 2)
    high, low = extremes
    for head, sharpness in enumerate(SHARPNESS):
        at = head * size
        slope = sharpness * math.sqrt(size)
        attention.q_fc.weight[at], attention.k_fc.weight[at] = 0, 0
        attention.q_fc.weight[at, PLUS] = 1 / carried
        for extreme, sign in ((high, -1.0), (low, 1.0)):
            attention.k_fc.weight[at, extreme] += sign * slope
        for extreme, sign in ((HIGH, -EARLIER), (LOW, EARLIER)):
            attention.k_fc.weight[at, extreme] += sign * slope
        for extreme, sign in ((FEATURE_HIGH, -1.0), (FEATURE_LOW, 1.0)):
            attention.k_fc.weight[at, extreme] += sign * slope * FEATURE_SHARPNESS / 4
        attention.k_fc.weight[at, WHITE] = -WHITE_SHARPNESS * math.sqrt(size)
        attention.k_fc.weight[at, PERFECT] = -PERFECT_SHARPNESS * math.sqrt(size)
        attention.k_fc.weight[at, DARK] = -DARK_SHARPNESS * math.sqrt(size)
        attention.k_fc.weight[at, UNSEEN] = -UNSEEN_SHARPNESS * math.sqrt(size)
        attention.k_fc.weight[at, ZERO] = size**0.5 * (
            WHITE_SHARPNESS + UNSEEN_SHARPNESS + DARK_SHARPNESS + PERFECT_SHARPNESS
        )
        _set(attention.v_fc.weight, slice(at, at + 3), shown, 1)
        attention.v_fc.weight[at : at + 3, ZERO] = -1
        for i in range(3):
            attention.out_fc.weight[answer.start + i, at + i] = 1 / len(SHARPNESS)
