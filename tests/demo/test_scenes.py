"""Drawn scenes: exact, and a blank one is plain grey."""

from __future__ import annotations

import numpy as np

from grains_eval.demo.scenes import BACKGROUND, CELL, COLOURS, SIZE, THINGS, Mark, draw, image


def test_a_thing_stands_in_its_cell_and_nowhere_else():
    levels = draw([Mark(6, "box", "red")], None)  # row 1, column 2
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[CELL : 2 * CELL, 2 * CELL : 3 * CELL] = True
    assert (levels[~inside] == BACKGROUND).all()
    middle = levels[CELL + CELL // 2, 2 * CELL + CELL // 2]
    assert tuple(middle) == COLOURS["red"]


def test_things_differ_and_noise_is_that_of_its_seed():
    drawn = {thing: draw([Mark(0, thing, "blue")], None).tobytes() for thing in THINGS}
    assert len(set(drawn.values())) == len(THINGS)
    scene = [Mark(3, "star", "green")]
    assert np.array_equal(draw(scene, 1), draw(scene, 1)) and not np.array_equal(draw(scene, 1), draw(scene, 2))
    assert np.array_equal(np.asarray(image(scene, 1)), draw(scene, 1))
