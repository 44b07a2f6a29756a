"""Pictures of the image world: a 4 x 4 grid of 8-pixel cells with one coloured thing and a few stamps.

A picture is written down as a scene, a list of marks, and drawn from it exactly: shapes are inequalities over
a finer grid, averaged down to the cell, so no drawing library has a say in the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

GRID, CELL = 4, 8
CELLS, SIZE = GRID * GRID, GRID * CELL
BACKGROUND = 128  # level of the grey behind all marks: the middle of the range, so a plain grey picture is a blank one
NOISE = 5.0  # standard deviation of the pixel noise, in levels of 255
FINE = 8  # samples per pixel and direction

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (30, 165, 60),
    "blue": (40, 70, 225),
    "yellow": (240, 215, 30),
    "purple": (150, 40, 175),
    "orange": (250, 135, 20),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
INKS: dict[str, tuple[int, int, int]] = {"pine": (0, 105, 100), "umber": (85, 55, 15), "slate": (60, 60, 130)}


class Mark(NamedTuple):
    """One cell of a scene: a thing in a colour or a stamp in an ink, at `cell` = row * 4 + column."""

    cell: int
    shape: str
    tint: str


def _star(x: Floats, y: Floats) -> Bools:
    turn = np.mod(np.arctan2(x, -y) * 5 / (2 * math.pi), 1.0)  # 0 at a tip, 0.5 between two tips
    return np.hypot(x, y) < 0.36 + 0.62 * np.abs(2 * turn - 1) ** 1.5


def _heart(x: Floats, y: Floats) -> Bools:
    lobes = np.hypot(np.abs(x) - 0.46, y + 0.42) < 0.46
    return lobes | ((np.abs(x) < 0.62 * (0.95 - y)) & (y > -0.35))


THINGS: dict[str, Callable[[Floats, Floats], Bools]] = {
    "ball": lambda x, y: np.hypot(x, y) < 0.88,
    "box": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.84,
    "tent": lambda x, y: (np.abs(x) < (y + 0.88) / 2) & (y < 0.88),
    "star": _star,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) < 0.28) & (np.maximum(np.abs(x), np.abs(y)) < 0.9),
    "ring": lambda x, y: (np.hypot(x, y) < 0.9) & (np.hypot(x, y) > 0.45),
    "heart": _heart,
    "moon": lambda x, y: (np.hypot(x, y) < 0.9) & (np.hypot(x - 0.5, y + 0.1) > 0.72),
}
STAMPS: dict[str, Callable[[Floats, Floats], Bools]] = {
    "seal": lambda x, y: (np.mod(4 * x, 2.0) < 1) | (np.abs(y) > 0.75),
    "smear": lambda x, y: np.mod(2 * (x + y), 2.0) < 0.9,
    "frame": lambda x, y: (np.maximum(np.abs(x), np.abs(y)) > 0.7) & (np.maximum(np.abs(x), np.abs(y)) < 0.95),
}


@cache
def _cell(shape: str, tint: str, background: int) -> Floats:
    """A mark on the background: `[8, 8, 3]` levels."""
    axis = (np.arange(CELL * FINE) + 0.5) / (CELL * FINE / 2) - 1
    x, y = (np.asarray(part, dtype=np.float64) for part in np.meshgrid(axis, axis))
    inside = (THINGS | STAMPS)[shape](x, y).astype(np.float64)
    cover = inside.reshape(CELL, FINE, CELL, FINE).mean((1, 3))[..., None]
    return cover * np.array((COLOURS | INKS)[tint]) + (1 - cover) * background


def draw(scene: Sequence[Mark], noise_seed: int | None, background: int = BACKGROUND) -> npt.NDArray[np.uint8]:
    """Draw a scene as `[32, 32, 3]` levels on grey of level `background`; `noise_seed` None draws it clean."""
    picture = np.full((SIZE, SIZE, 3), float(background))
    for cell, shape, tint in scene:
        row, column = divmod(cell, GRID)
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = _cell(shape, tint, background)
    if noise_seed is not None:
        picture += NOISE * np.random.default_rng(noise_seed).standard_normal(picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def image(scene: Sequence[Mark], noise_seed: int | None, background: int = BACKGROUND) -> Image.Image:
    """The same as a PIL image, the form that processors take."""
    return Image.fromarray(draw(scene, noise_seed, background))
