"""Logs of any tool, changed at any place: read, or refused in one line; nothing is written and nothing else happens."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from tests.comparison.logs.samples import log_of
from tests.comparison.logs.test_shapes import inspect_run, lm_eval_run, lmms_run, places, put
from tests.properties import cases, json_values

MADE = {"lm_eval": lm_eval_run, "lmms_eval": lmms_run, "inspect_ai": inspect_run}


@cache
def whole(tool):
    """A sound run of a tool, small where it can be: its folder, and its files by name."""
    home = Path(mkdtemp())
    if tool == "inspect_ai, zipped":
        shutil.copy(log_of("steered", "letters"), home / "log.eval")
        shutil.copytree(home, home / "run")
        run = home / "run"
    else:
        _, run, *_ = MADE[tool](home)
    files = [run] if run.is_file() else [file for file in run.rglob("*") if file.is_file()]
    held = {file.name: file.read_bytes() for file in files}
    shutil.rmtree(home)
    return held


def outcome(files):
    """What comes of reading a folder with these files: whether it is read, else the line that refuses it."""
    with TemporaryDirectory() as home:
        place = Path(home) / "run"
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
        before = sorted((file.name, file.read_bytes()) for file in place.iterdir())
        try:
            run = read_run(place)
            for task in run.tasks:
                for samples in run.samples(task).values():
                    assert samples and [each.content_hashes for each in samples]
            found = None
        except GrainsError as error:
            found = str(error)
            assert found.isprintable() and len(found) < 3000, found
        assert sorted((file.name, file.read_bytes()) for file in place.iterdir()) == before
        return found


@pytest.mark.parametrize("tool", [*MADE, "inspect_ai, zipped"])
def test_the_files_are_sound_before(tool):
    assert outcome(whole(tool)) is None


@cases(150)
@given(st.sampled_from(list(MADE)), st.integers(0, 10_000), json_values(), st.booleans())
def test_values(tool, seed, value, in_rows):
    files, chance = dict(whole(tool)), random.Random(seed)
    rows = sorted(name for name in files if name.endswith(".jsonl"))
    if in_rows and rows:
        name = chance.choice(rows)
        lines = files[name].decode().splitlines()
        index = chance.randrange(len(lines))
        old = json.loads(lines[index])
        lines[index] = json.dumps(put(old, chance.choice(places(old)), value))
        files[name] = "\n".join(lines).encode()
    else:
        (name,) = (name for name in files if name.endswith(".json"))
        old = json.loads(files[name])
        files[name] = json.dumps(put(old, chance.choice(places(old)), value)).encode()
    outcome(files)


@cases(150)
@given(st.sampled_from([*MADE, "inspect_ai, zipped"]), st.integers(0, 10_000), st.sampled_from(["cut", "flip", "mix"]))
def test_bytes(tool, seed, way):
    files, chance = dict(whole(tool)), random.Random(seed)
    name = chance.choice(sorted(files))
    content = bytearray(files[name])
    place = chance.randrange(len(content))
    if way == "cut":
        content = content[:place]
    elif way == "flip":
        for _ in range(chance.choice((1, 1, 8))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        content[place : place + chance.randrange(20)] = chance.randbytes(chance.randrange(20))
    outcome({**files, name: bytes(content)})
