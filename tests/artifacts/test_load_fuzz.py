"""Artifacts that somebody else made load or are refused in one line, whatever they hold, and nothing else happens.

Seeded, so that a case that fails is named by its number.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import sys
from collections import Counter
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from grains_eval.artifacts.layout import ADAPTER, CARD, CONFIG, MOST_LAYERS, TENSORS, TOKENS, Artifact, ArtifactContents
from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.artifacts.save import save_artifact
from grains_eval.errors import GrainsError
from grains_eval.types import Contrast, FoundTokens, SteeringVectors, TokenOrigin, TokenPool
from tests.artifacts.samples import vectors

_FEW, _MANY = 300, 10_000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ACTS = ("subprocess.", "os.", "shutil.", "socket.", "pickle.", "ctypes.", "exec")
_HARMLESS = ("os.listdir", "os.scandir", "os.walk", "ctypes.dlsym", "ctypes.dlopen")
_seen: list[str] | None = None  # while an artifact is opened: what it made the process do


def _watch(event, arguments):
    """An audit hook, which Python never takes back: silent unless an artifact is being opened."""
    if _seen is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
    if writes or (event.startswith(_ACTS) and not event.startswith(_HARMLESS)):
        _seen.append(f"{event} {arguments}"[:300])


def _tokens():
    pools = [
        TokenPool(
            {1: torch.ones(count, 1, 2), 3: torch.ones(count, 1, 2)},
            {1: torch.ones(count, 1, 2), 3: torch.ones(count, 1, 2)},
            torch.ones(count, 4),
            tuple(TokenOrigin("a", 5, 2, 3, "x", 2.0) for _ in range(count)),
        )
        for count in (2, 1)
    ]
    return FoundTokens(*pools, provenance={"method": "found_tokens"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One small artifact of each kind."""
    home = tmp_path_factory.mktemp("whole")
    (home / "peft").mkdir()
    (home / "peft" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"a.lora_A": torch.ones(2, 2)}, home / "peft" / "adapter_model.safetensors")
    kinds = {
        "vectors": ArtifactContents(vectors()),
        "tokens": ArtifactContents(tokens=_tokens()),
        "adapter": ArtifactContents(adapter=home / "peft", provenance={"method": "lora"}),
        "instruction": ArtifactContents(instruction="be kind", provenance={"method": "prompt"}),
        "contrast": ArtifactContents(contrast=Contrast(1.0, {"t": "context"}), provenance={"method": "cad"}),
    }
    made = {name: save_artifact(contents, home / name) for name, contents in kinds.items()}
    for folder in made.values():
        (folder / CARD).unlink()  # never read, and ten thousand copies take time
    return made


def _truncate(rng, file, outside):
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def _flip(rng, file, outside):
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(content))


def _splice(rng, file, outside):
    content = file.read_bytes()
    place = rng.randrange(len(content) + 1)
    rest = content[place + rng.randrange(20) :] if rng.random() < 0.7 else b""
    file.write_bytes(content[:place] + rng.randbytes(rng.randrange(40)) + rest)


def _link(rng, file, outside):
    """The file, or the folder it is in, leads elsewhere: to a copy, to secrets, nowhere, to itself, or is no file."""
    kind = rng.choice(("copy", "secret", "nowhere", "circle", "pipe", "folder", "device", "inside"))
    content = file.read_bytes()
    file.unlink()
    if kind in ("pipe", "folder"):
        os.mkfifo(file) if kind == "pipe" else file.mkdir()
        return
    (outside / "copy").write_bytes(content)
    (file.parent / "beside").write_bytes(content)
    to = {"copy": outside / "copy", "secret": outside / "secret", "nowhere": outside / "none", "circle": file}
    to |= {"device": "/dev/zero", "inside": "beside"}
    file.symlink_to(to[kind])


def _pickle(rng, file, outside):
    trap = b"cos\nmkdir\n(S'%s'\ntR." % str(outside / "sprung").encode()
    file.write_bytes(trap)
    for name in ("steering_vectors.pt", "adapter_model.bin", "pytorch_model.bin"):
        (file.parent / name).write_bytes(trap)


_DAMAGE = (_truncate, _flip, _splice, _link, _pickle)

_STRANGE = (
    None, True, False, 0, 1, -1, 4, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf"), "",
    "x", "1", "../../outside/secret", "/etc/passwd", "a\nb", "\x1b[2J", "\ud800", "\0", "layers.1", "block_output",
    "l" * 5000, [], {}, [None], [1, 1], [True], [1.5], ["1"], [[1]], [10**400], {"1": None}, {"a\nb": {"c\n": 1}},
    {"1": []}, {"positive": []}, {"negative": [{}]}, {"alpha": 1}, {"layers": [9]}, {"strength": 10**400},
    {"operator": []}, {"form": "text"}, {"unit": {}}, {"layers": 3}, {"layers": "34"}, {"layers": {"1": 2}},
    {"strenght": 1}, {"tokens": 0},
)  # fmt: skip


def _paths(value, path=()):
    """Where a JSON value holds something."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _config(rng, folder):
    """A value of `steering_config.json` replaced, dropped, added or nested without end."""
    file = folder / CONFIG
    held = json.loads(file.read_text())
    for _ in range(rng.choice((1, 1, 2, 4))):
        path = rng.choice(list(_paths(held)) or [("method",)])
        inner = held
        for key in path[:-1]:
            inner = inner[key]
        way = rng.random()
        if way < 0.1:
            del inner[path[-1]]
        elif way < 0.2 and isinstance(inner, dict):
            inner[str(rng.choice(_STRANGE))[:50] if rng.random() < 0.9 else "9" * 5000] = deepcopy(rng.choice(_STRANGE))
        else:
            inner[path[-1]] = deepcopy(rng.choice(_STRANGE))
    text = json.dumps(held)
    way = rng.random()
    if way < 0.05:
        text = text.replace("1", rng.choice(("[" * 100_000, '{"a":' * 50_000, "9" * 5000, "1" * 4000)), 1)
    elif way < 0.1:
        text = rng.choice(("[" * 100_000, "null", "[]", "1", '"x"', "", "\ufeff{}", text * 2))
    file.write_text(text, encoding="utf-8")


def _header(rng, file):
    """A safetensors file whose header says something else than it holds."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    way = rng.random()
    if way < 0.15:
        sizes = (0, 1, size - 1, size + 1, 100_000_000, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
        file.write_bytes(struct.pack("<Q", rng.choice(sizes)) + content[8:])
        return
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    kind = rng.choice(("dtype", "shape", "offsets", "name", "twice", "long", "metadata", "many", "deep"))
    if kind == "dtype":
        entry["dtype"] = rng.choice(
            ("F64", "F16", "BF16", "I32", "U8", "BOOL", "C64", "F8_E4M3", "F8_E8M0", "F4", "X", 3)
        )
    elif kind == "shape":
        shapes = ([], [0], [-1], [8, 1], [1, 8], [2**63], [2**40, 2**40], [4], ["8"], None, [1] * 70)
        entry["shape"] = rng.choice(shapes)
    elif kind == "offsets":
        entry["data_offsets"] = rng.choice(([0, 0], [8, 0], [0, 2**63], [-4, 32], [0], None, [4, 36]))
    elif kind == "name":
        header[rng.choice(("layers.01", "layers.-1", "../x", "a\nb", "", "layers.9", "l" * 3000))] = header.pop(name)
    elif kind == "twice":
        header["layers.2"] = entry
    elif kind == "long":
        header["x" * rng.choice((10, 100_000))] = {**entry, "shape": [0], "data_offsets": [0, 0]}
    elif kind == "many":
        header |= {f"layers.{number}": {**entry, "data_offsets": [0, 0]} for number in range(rng.choice((9, 5000)))}
    elif kind == "deep":
        depth = rng.choice((50, 100_000))
        made = b'{"layers.1":' * depth + b"1" + b"}" * depth
        file.write_bytes(struct.pack("<Q", len(made)) + made + content[8 + size :])
        return
    else:
        header["__metadata__"] = rng.choice((None, {"a": 1}, {"a": "b" * 10_000}, []))
    made = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(made)) + made + content[8 + size :])


def _other_tensors(rng, file):
    """A sound safetensors file of other tensors."""
    dtypes = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.bool,
        torch.complex64,
        torch.float8_e4m3fn,
    )
    shape = rng.choice(((8,), (), (0,), (2, 1, 2), (2, 4), (8, 1), (9,), (1, 1, 1, 1)))
    value = rng.choice((1.0, 0.0, float("nan"), float("inf"), 1e300))
    names = (
        "layers.1",
        "layers.4",
        "positive.keys.1",
        "positive.values.3",
        "positive.embeddings",
        "negative.embeddings",
    )
    tensor = torch.full(shape, value, dtype=torch.float64).to(rng.choice(dtypes))
    held = load_file(file) if rng.random() < 0.8 else {}
    save_file({**held, rng.choice(names): tensor}, file)


def _rename(rng, file, outside):
    file.rename(file.with_name(rng.choice((TENSORS, TOKENS, CONFIG, "x"))))


def _link_folder(rng, folder, outside):
    """The adapter's folder leads out of the artifact, or in a circle."""
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    (folder / ADAPTER).symlink_to(rng.choice((outside, folder, folder / ADAPTER, outside / "none")))


def _spoil(rng, folder, outside):
    """Damage something, and say in which way."""
    files = sorted(each for each in folder.rglob("*") if each.suffix in (".json", ".safetensors"))
    tensors = [each for each in files if each.suffix == ".safetensors"]
    way = rng.random()
    if way < 0.35:
        _config(rng, folder)
        return _config
    if way < 0.65 and tensors:
        done = rng.choice((_header, _header, _other_tensors))
        done(rng, rng.choice(tensors))
        return done
    done = _rename if way < 0.68 else _link_folder if way < 0.71 else rng.choice(_DAMAGE)
    done(rng, folder if done is _link_folder else rng.choice(files), outside)
    return done


# of `vectors=`, where no artifact is
_SOURCES = (
    "../x", "{0}/../none", "a/../b", "../a@main", "a/..", "./a", "~/a", "a/b@../../etc/passwd", "a/b@..", "a\0b",
    "a/b\n", "{0}/\0", "{1}/secret", "/dev/zero", "/proc/self/fd/0", "{0}/steering_config.json", "{0}/x.pt", "x" * 5000,
    "", "/", "{1}", "\ud800/a", "a/\x1b[2J", "file:///etc/passwd", "https://h/x", "a/b@" + "r" * 3000,
    "{1}/../outside/./secret",
)  # fmt: skip


def _held(*folders):
    """Everything in them by path: kind, size, time of the last change and where a link leads."""
    found = {}
    for folder in folders:
        for place, inner, files in os.walk(folder):
            for name in (*inner, *files):
                path = os.path.join(place, name)
                state = os.lstat(path)
                found[path] = (state.st_mode, state.st_size, state.st_mtime_ns)
    return found


def _open(opens, folder):
    """What comes of opening a folder, and what the process did meanwhile."""
    global _seen
    _seen = []
    try:
        return opens(folder), None, _seen
    except GrainsError as error:
        return None, error, _seen
    finally:
        _seen = None


def _run(whole, home, cases, seed):
    """Open `cases` spoilt artifacts; how many of them loaded and how many were refused."""
    outside = home / "outside"
    outside.mkdir()
    (outside / "secret").write_text("hush-1234")
    sys.addaudithook(_watch)
    for folder in whole.values():
        open_artifact(folder)  # what is imported late is imported now
    counts = Counter()
    for number in range(cases):
        rng = random.Random(seed * 1_000_003 + number)
        folder = home / "artifact"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole[rng.choice(("vectors", "vectors", "tokens", *whole))], folder)
        source = folder
        if rng.random() < 0.03:
            source, way = rng.choice(_SOURCES).format(folder, outside), "source"
        else:
            way = _spoil(rng, folder, outside).__name__
        before = _held(folder, outside)
        try:
            found, error, did = _open(rng.choice((open_artifact, load_vectors)), source)
        except BaseException as unexpected:
            raise AssertionError(f"case {number} of seed {seed}: {unexpected!r}"[:500]) from unexpected
        assert not did, (number, did)
        assert _held(folder, outside) == before, number
        if error is not None:
            said = str(error)
            assert said.isprintable() and len(said) < 1000 and "hush" not in said, (number, said)
        else:
            assert way != "source", number
            assert isinstance(found, Artifact | SteeringVectors), number
            _check(found if isinstance(found, SteeringVectors) else found.vectors)
        counts.update(["loaded" if error is None else "refused", way])
    return counts


def _check(held):
    if held is None:
        return
    assert all(each.dtype == torch.float32 and bool(each.isfinite().all()) for each in held.directions.values())
    assert all(0 <= scale < float("inf") for scale in held.scales.values())
    assert all(type(layer) is int and 0 <= layer < MOST_LAYERS for layer in held.recommended.layers or ())


def test_spoilt_artifacts_load_or_are_refused_in_one_line(whole, tmp_path):
    counts = _run(whole, tmp_path, _FEW, 1)
    assert counts["refused"] > _FEW / 2 and counts["loaded"] > _FEW / 20


@pytest.mark.slow
def test_so_are_ten_thousand(whole, tmp_path):
    counts = _run(whole, tmp_path, _MANY, 2)
    assert counts["refused"] > _MANY / 2 and counts["loaded"] > _MANY / 20
    ways = (_config, _header, _other_tensors, _rename, _link_folder, *_DAMAGE)
    assert all(counts[way] > _MANY / 50 for way in ("source", *(each.__name__ for each in ways))), counts


def test_the_watch_sees_what_is_done(tmp_path):
    """The check above would tell: a write, a process and an unpickled function."""
    sys.addaudithook(_watch)
    deeds = (
        lambda folder: (folder / "x").write_text("x"),
        lambda folder: os.system("true"),
        lambda folder: __import__("pickle").loads(b"cos\ngetpid\n(tR."),
    )
    for deed in deeds:
        assert _open(deed, tmp_path)[2]
