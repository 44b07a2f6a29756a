"""A comparison with everything in it: methods, controls, a failure, curves, heat maps."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from grains_eval.report import Curve, Series, Supplement, TokenMap, token_map
from grains_eval.types import Patch
from tests.comparison.folders import TaskData, doc_hash, write_run

CHOICES = [" It passes through", " It stays for <b>seven</b> years", " You & the gum", " $x_1$ {{ nothing }}"]
ITEMS, SKILLS = 120, 600
DOCS = [
    {"question": f"What if you swallow gum {i}? <script>alert(1)</script>", "topic": f"c{i % 20}"} for i in range(ITEMS)
]


def target(shift: float, noise: float, seed: int) -> TaskData:
    scores = np.random.default_rng(0).normal(-1, 2, (ITEMS, 4))
    scores = scores + np.random.default_rng(seed).normal(0, noise, scores.shape)
    scores[:, 0] += shift
    return TaskData(
        {"acc": (scores.argmax(axis=1) == 0).astype(float).tolist()},
        docs=DOCS,
        responses=[[[repr(float(x)), "False"] for x in row] for row in scores],
        choices=CHOICES,
        prompts=[f"Q: {doc['question']}\nA:" for doc in DOCS],
        metadata={"version": 3.0, "cluster_key": "topic"},
    )


def skills(loss: float, seed: int) -> TaskData:
    right = np.random.default_rng(99).random(SKILLS) < 0.7
    lost = np.random.default_rng(seed).random(SKILLS) < loss
    return TaskData({"acc": (right & ~lost).astype(float).tolist()})


RUNS = {
    "baseline": (0.0, 0.0, 0.0),
    "grains": (1.6, 0.7, 0.003),
    "caa": (0.9, 0.8, 0.12),
    "random 1": (0.1, 0.5, 0.003),
    "random 2": (-0.2, 0.5, 0.002),
}


def folders(root: Path) -> dict[str, Path]:
    used = {
        "build": [doc_hash(doc) for doc in DOCS[:10]],
        "development": [doc_hash(doc) for doc in DOCS[10:20]],
    }
    made = {}
    for seed, (name, (shift, noise, loss)) in enumerate(RUNS.items()):
        said = {
            "kind": "control" if name.startswith("random") else "method",
            "evaluation": {"tasks": ["truthfulqa_mc1"], "preserve": ["mmlu"]},
        }
        entry = {"method": name, "layers": [3], "fingerprint": "ab12", "doc_hashes": used, **said}
        steering = None if name == "baseline" else [entry]
        made[name] = write_run(
            root / name,
            {"truthfulqa_mc1": target(shift, noise, seed), "mmlu": skills(loss, seed)},
            steering=steering,
        )
    return made


def maps() -> list[TokenMap]:
    generator = np.random.default_rng(1)
    tokens = ("<s>", "ĠWhat", "Ġif", "Ġ<b>", "Ġyou", "?", "Ċ", "Answer", ":")
    text = SimpleNamespace(
        example_id="truthfulqa_mc1:17", tokens=tokens, scores=generator.normal(0, 0.5, 9),
        is_image=[False] * 9, value=1.2, baseline_value=-0.4, completeness_error=0.012, patches=(),
    )  # fmt: skip
    grid = [Patch(0, r, c, (c / 2, r / 2, (c + 1) / 2, (r + 1) / 2)) for r in range(2) for c in range(2)]
    picture = SimpleNamespace(
        example_id="spa_vl:3", tokens=("<image>",) * 4 + ("Ġsafe", "?"), scores=generator.normal(0, 0.5, 6),
        is_image=[True] * 4 + [False] * 2, value=1.2, baseline_value=-0.4, completeness_error=float("nan"),
        patches=(*grid, None, None),
    )  # fmt: skip
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 120, 40)).save(buffer, "PNG")
    return [
        token_map(text, selected=[4], doc_hash=doc_hash(DOCS[57])),
        token_map(picture, selected=[1], images=[buffer.getvalue()]),
    ]


def extras() -> Supplement:
    strengths = [0.25, 0.5, 1.0, 2.0]
    curve = Curve(
        "Strength on development items", "strength s", "accuracy",
        (
            Series(
                "layer 8", strengths, [0.35, 0.4, 0.45, 0.3], [0.3, 0.35, 0.4, 0.25], [0.4, 0.45, 0.5, 0.35]
            ),
            Series("layer 16", strengths, [0.36, 0.42, 0.55, 0.5]),
        ),
        chosen=1.0, chosen_line="layer 16", note="Chosen: layer 16.",
    )  # fmt: skip
    return Supplement(
        bands={"random vectors": ["random 1", "random 2"]},
        failures={"nl_iti": "the probe ran out of memory <here>"},
        curves=[curve],
        token_maps=maps(),
        notes=["a note for the reader"],
    )
