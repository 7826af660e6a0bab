"""The finished model: shapes, pictures and finishes put together."""

from __future__ import annotations

import math

import numpy as np

from . import textures_ceramics as ceramics
from . import textures_cloth as cloth
from . import textures_nature as nature
from . import textures_paper as paper
from . import textures_wood as wood
from .painting import Colour, fbm, to_texture
from .room import HALF_X, HALF_Y, HEIGHT, SPINES, WAINSCOT, room
from .scene import Finish, Scene, assemble
from .still_life import RUNNER_LENGTH, RUNNER_WIDTH, TABLE_RADIUS, still_life

FINISHES = {
    "matt": Finish(),
    "cloth": Finish(),
    "canvas": Finish(0.55, 0.03),
    "paint": Finish(0.5, 0.035),
    "floor": Finish(0.42, 0.04),
    "varnish": Finish(0.36, 0.045),
    "leather": Finish(0.45, 0.04),
    "skin": Finish(0.42, 0.04),
    "glaze": Finish(0.2, 0.05),
    "lacquer": Finish(0.25, 0.05),
    "liquid": Finish(0.06, 0.03),
    "metal": Finish(0.3, 0.5),
    "shade": Finish(emit=3.0),
    "skylight": Finish(emit=2.4, is_light=True),
    "lamplight": Finish(emit=14.0, is_light=True),
}


def build(detail: float = 1.0, light_scale: float = 1.0, with_pictures: bool = True) -> Scene:
    """Model the scene; `detail` scales the resolution of the pictures, `light_scale` the spacing of baked light.

    Without pictures every surface is grey: enough, and much quicker, for questions about its shape.
    """
    things = still_life()
    surroundings, lights = room()
    patches = [*things, *surroundings]
    used = sorted({p.texture for p in patches})
    if with_pictures:
        painted = _textures(detail)
        textures = {name: painted[name] for name in painted if name in used}
    else:
        textures = {name: np.full((1, 1, 4), 0.5, np.float32) for name in used}
    return assemble(patches, textures, FINISHES, lights, light_scale)


def _textures(detail: float) -> dict[str, np.ndarray]:
    near, far = 1500 * detail, 420 * detail
    return {**_table_textures(near), **_small_textures(detail), **_book_textures(near, far), **_room_textures(far)}


def _table_textures(near: float) -> dict[str, np.ndarray]:
    return {
        "table_inner": wood.table_top(0.0, 0.3, near * 0.8),
        "table_outer": wood.table_top(0.3, TABLE_RADIUS - 0.01, near),
        "table_rim": wood.board(1.7, 0.07, near * 0.7, wood.HONEY, 61),
        "table_foot": wood.board(0.8, 1.0, near * 0.4, wood.WALNUT, 62),
        "runner": cloth.runner(RUNNER_LENGTH, RUNNER_WIDTH, near),
        "teapot_body": ceramics.teapot_body(2 * math.pi * 0.12, 0.28, near * 1.1),
        "teapot_lid": ceramics.teapot_lid(2 * math.pi * 0.06, 0.13, near * 1.1),
        "teapot_spout": ceramics.striped_glaze(0.11, 0.2, near),
        "cup": ceramics.cup(2 * math.pi * 0.045, 0.2, near),
        "saucer": ceramics.cup(2 * math.pi * 0.085, 0.19, near),
        "bowl": ceramics.bowl(2 * math.pi * 0.12, 0.33, near),
        "pot": ceramics.plant_pot(2 * math.pi * 0.048, 0.19, near, (178, 92, 58), (44, 84, 96)),
        "doll0": ceramics.nesting_doll(0.3, 0.19, near, (178, 34, 38), (216, 150, 44), 1),
        "doll1": ceramics.nesting_doll(0.22, 0.14, near, (28, 84, 100), (190, 46, 50), 2),
        "doll2": ceramics.nesting_doll(0.15, 0.1, near, (84, 110, 50), (60, 50, 110), 3),
    }


def _small_textures(detail: float) -> dict[str, np.ndarray]:
    n = max(24, round(190 * detail))
    letters = zip(
        "NSXRAY",
        ((190, 44, 40), (34, 74, 140), (50, 120, 70), (206, 130, 30), (110, 50, 120), (24, 110, 120)),
        strict=True,
    )
    return {
        "orange": nature.orange_skin(n, ((196, 88, 14), (230, 124, 22), (244, 158, 44)), 5),
        "lemon": nature.orange_skin(n, ((206, 168, 26), (238, 206, 48), (248, 226, 96)), 6),
        "apple": nature.apple_skin(n, (222, 178, 74), (172, 26, 28), 7),
        "apple_green": nature.apple_skin(n, (150, 172, 60), (196, 120, 52), 8),
        "pear": nature.apple_skin(n, (196, 186, 78), (178, 112, 52), 9, 0.4),
        "leaf0": nature.leaf_skin(n // 2, (120, 160, 96), (54, 96, 64), (176, 70, 70), 1),
        "leaf1": nature.leaf_skin(n // 2, (136, 168, 88), (62, 104, 52), (196, 110, 84), 2),
        "leaf2": nature.leaf_skin(n // 2, (98, 146, 104), (40, 84, 66), (168, 84, 92), 3),
        "earth": nature.earth(n),
        "tea": nature.tea(n // 2),
        "brass": ceramics.gilded(),
        "wax": _plain((236, 222, 190), 0.14, 30),
        "dark": _plain((30, 26, 24), 0.3, 20),
        "thread": _plain((226, 202, 158), 0.6, 14),
        "dark_wood": wood.board(0.3, 0.1, 600, wood.WALNUT, 71),
        "bulb": _plain((255, 226, 178), 0.0, 4),
        **{f"block{i}": paper.block_face(c, 0.048, 2200 * detail, hue, i) for i, (c, hue) in enumerate(letters)},
    }


def _book_textures(near: float, far: float) -> dict[str, np.ndarray]:
    out = {"pages": paper.page_block(0.25, 0.04, near, 4), "spines": paper.spine_atlas(SPINES, far * 1.8, 11)}
    titles = (("RADIANCE", "A HISTORY OF LIGHT"), ("TEA & TIME", "ESSAYS"), ("POLYNOMIALS", "AND OTHER POEMS"))
    leathers: tuple[Colour, ...] = ((40, 74, 62), (126, 36, 36), (40, 56, 100))
    for i, (title, leather) in enumerate(zip(titles, leathers, strict=True)):
        out[f"cover{i}"] = paper.book_cover(0.24, 0.17, near, title, leather, i)
        out[f"leather_cover{i}"] = _plain(leather, 0.4, 60)
        out[f"spine{i}"] = np.ascontiguousarray(paper.lying_spine(0.24, 0.035, near, title[0], leather, i))
    return out


def _room_textures(far: float) -> dict[str, np.ndarray]:
    evening: tuple[Colour, Colour, Colour] = ((40, 40, 70), (120, 90, 120), (226, 150, 110))
    morning: tuple[Colour, Colour, Colour] = ((26, 62, 56), (90, 140, 130), (180, 210, 214))
    autumn: tuple[Colour, Colour, Colour] = ((84, 34, 22), (190, 110, 48), (220, 196, 150))
    out = {
        "floor": wood.herringbone(max(2 * HALF_X, 2 * HALF_Y), far),
        "rug": wood.rug(2.7, 2.0, far),
        "ceiling": wood.board(4.8, 4.6, far * 0.2, wood.PAINTED, 9),
        "panelling": wood.panelling(2 * HALF_X, WAINSCOT, far * 0.8, 9),
        "oak": wood.board(1.6, 0.2, far, wood.OAK, 14),
        "oak_up": wood.board(1.2, 0.5, far, wood.OAK, 15).transpose(1, 0, 2).copy(),
        "walnut": wood.board(2.0, 0.5, far, wood.WALNUT, 16),
        "walnut_up": wood.board(1.6, 0.4, far, wood.WALNUT, 17).transpose(1, 0, 2).copy(),
        "gold_frame": wood.board(
            0.8, 0.06, far * 2, ((120, 80, 30), (184, 134, 60), (222, 178, 96), (236, 204, 130)), 18
        ),
        "curtain": cloth.curtain(1.1, 2.3, far, 5),
        "curtain_cushion": cloth.curtain(0.6, 0.6, far, 6),
        "tweed": cloth.upholstery(round(1.2 * far), 3),
        "glass": cloth.stained_glass(1.5, 1.32, far),
        "lampshade": cloth.lampshade(1.4, 0.6, far * 0.6),
        "map": paper.old_map(1.35, 0.92, far * 1.3, 8),
        "globe": paper.old_map(1.0, 0.5, far, 12),
        "view0": paper.landscape(0.72, 0.5, far * 1.2, evening, 3),
        "view1": paper.landscape(0.5, 0.36, far * 1.2, morning, 14),
        "view2": paper.landscape(0.5, 0.36, far * 1.2, autumn, 25),
        "view3": paper.landscape(0.5, 0.3, far * 1.2, morning, 37),
        "circles": paper.circles(0.5, 0.5, far * 1.2, 2),
    }
    for i, side in enumerate(("north", "east", "south", "west")):
        width = 2 * (HALF_Y if side in ("east", "west") else HALF_X)
        out[f"paper_{side}"] = cloth.wallpaper(width, HEIGHT - WAINSCOT, far, 30 + i)
    return out


def _plain(colour: Colour, unevenness: float, cells: float) -> np.ndarray:
    g = np.linspace(0, 1, 128)
    x, y = np.meshgrid(g, g)
    tone = 1 + unevenness * 2 * (fbm(x * cells, y * cells, 4, 6) - 0.5)
    return to_texture(np.asarray(colour, float) * tone[..., None])
