"""Every family that transformers can build at toy size: what the harness says, or one line that refuses.

make test-families                      # a sample
make test-families ARGS="-m families"   # all of them
"""

from __future__ import annotations

import json
import zlib
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.families import row
from tests.families.checks import examined
from tests.families.configurations import Family, families

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
KINDS = ("text", "encoder-decoder", "vision-language")
EVERY = [family for kind in KINDS for family in families(kind)]
# those that most people use, and one of each way to lose a cache, a position or a picture
COMMON = """llama|gpt2|gpt_neox|qwen2|qwen3|qwen3_moe|mistral|mixtral|gemma|gemma2|gemma3_text|phi3|phi3, longrope
opt|bloom|falcon|olmo2|mamba|minimax|jamba|rwkv|gemma3n_text|deepseek_v3|deepseek_v32|deepseek_v4|llama, dynamic rope
t5|bart|llava|qwen2_5_vl|mllama|paligemma|gemma3""".replace("\n", "|").split("|")


def parameter(family: Family):
    sampled = family.name in COMMON or zlib.crc32(family.name.encode()) % 4 == 0
    marks = [pytest.mark.families, *([] if sampled else [pytest.mark.slow])]
    return pytest.param(family, id=family.name, marks=marks)


@pytest.mark.parametrize("family", [parameter(family) for family in EVERY])
def test_is_right_or_refused(family):
    found = examined(family)
    wrong = {name: outcome.detail for name, outcome in found.items() if not outcome.fine}
    assert not wrong
    measured = json.loads((RESULTS / f"families_{family.kind.replace('-', '_')}.json").read_text())
    if measured["machine"]["versions"]["transformers"] == version("transformers"):
        known = {each["family"]: each for each in measured["rows"]}
        made = row(family, found)
        assert {k: v for k, v in made.items() if k != "notes"} == {
            k: v for k, v in known[family.name].items() if k != "notes"
        }, "the table in docs/models.md says otherwise: run python -m benchmarks.families and benchmarks.page"


def test_positions_in_blocks_of_several_streams():
    (family,) = (family for family in EVERY if family.name == "deepseek_v4")
    outcome = examined(family, ["generation"])["generation"]
    assert outcome.state == "same" and "refused" not in outcome.detail, outcome


def test_there_are_enough():
    names = [family.name for family in EVERY]
    assert len(set(names)) == len(names)
    assert len([family for family in EVERY if family.kind == "text"]) > 150
