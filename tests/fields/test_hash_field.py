"""What the fast field refuses."""

from __future__ import annotations

import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.hash_field import HashField
from nerfstudio_ext.kernels import GridLayout


@pytest.mark.parametrize(("hidden", "color_hidden", "name"), [(20, 64, "hidden"), (64, 0, "color_hidden")])
def test_widths_that_do_not_fill_vectors_are_refused(hidden: int, color_hidden: int, name: str) -> None:
    layout = GridLayout(2, 2, 10, 4, 8)
    with pytest.raises(UserError, match=f"{name} = .*multiple of 16"):
        HashField(layout, hidden, color_hidden, 1.0, torch.Generator())
