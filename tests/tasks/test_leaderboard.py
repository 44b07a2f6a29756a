"""The harness's group `leaderboard` on local copies of its data: evaluated with and without a vector, then compared."""

import shutil

import pytest
import torch

import grains_eval as ge
from grains_eval import cli
from grains_eval.comparison.logs import read_run
from grains_eval.types import SteeringConfig, SteeringVectors
from tests import localdata
from tests.comparison.boards import BBH, MUSR

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tiny_text, loaded_text, tmp_path_factory):
    """Runs of a tiny model, plain and with a random vector."""
    home = tmp_path_factory.mktemp("leaderboard")
    model = loaded_text("llama").model
    layer = model.config.num_hidden_layers - 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        direction = torch.randn(model.config.hidden_size)
    used = {"build": [], "development": []}
    provenance = {
        "method": "random", "base_model": "tiny", "seed": 0, "doc_hashes": used,
        "evaluation": {"tasks": [], "preserve": ["leaderboard"]},
    }  # fmt: skip
    setting = SteeringConfig((layer,), 8.0, "absolute", "add")
    vectors = SteeringVectors({layer: direction}, {layer: 1.0}, recommended=setting, provenance=provenance)
    ge.save_vectors(vectors, home / "vectors")
    plain = {"pretrained": str(tiny_text("llama")), "dtype": "float32"}
    settings = {"device": "cpu", "batch_size": 8, "gen_kwargs": {"max_gen_toks": 12}, "bootstrap_iters": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(localdata.write(home / "data", "leaderboard"))
        ge.evaluate(plain, "leaderboard", output_path=home / "plain", **settings)
        ge.evaluate({**plain, "vectors": str(home / "vectors")}, "leaderboard", output_path=home / "moved", **settings)
    return home / "plain", home / "moved"


def by_hand(folder):
    """The leaderboard's scores from what lm_eval itself reports, written out."""
    reported = read_run(folder).results["results"]

    def over(score, chance):
        return 0.0 if score < chance else (score - chance) / (1 - chance)

    bbh = [over(reported[f"leaderboard_bbh_{name}"]["acc_norm,none"], 1 / count) for name, count in BBH.items()]
    musr = [over(reported[f"leaderboard_musr_{name}"]["acc_norm,none"], 1 / count) for name, count in MUSR.items()]
    followed = reported["leaderboard_ifeval"]
    scores = {
        "leaderboard_ifeval": (followed["prompt_level_strict_acc,none"] + followed["inst_level_strict_acc,none"]) / 2,
        "leaderboard_bbh": sum(bbh) / 24,
        "leaderboard_math_hard": reported["leaderboard_math_hard"]["exact_match,none"],
        "leaderboard_gpqa": over(reported["leaderboard_gpqa"]["acc_norm,none"], 0.25),
        "leaderboard_musr": sum(musr) / 3,
        "leaderboard_mmlu_pro": over(reported["leaderboard_mmlu_pro"]["acc,none"], 0.1),
    }
    return scores | {"leaderboard": sum(scores.values()) / 6}


def test_scores_are_those_of_lm_evals_own_results(folders):
    first, second = map(by_hand, folders)
    rows = {row.task: row for row in ge.compare(*folders, leaderboard="open_llm_v2")}
    assert {name: row.baseline for name, row in rows.items()} == pytest.approx(first)
    assert {name: row.steered for name, row in rows.items()} == pytest.approx(second)
    assert any(value > 0 for value in first.values()) and first != second
    assert rows["leaderboard_gpqa"].n == 6 + 12 + 18 and rows["leaderboard_gpqa"].clusters == 18
    assert rows["leaderboard_ifeval"].n == 9


def test_the_command_prints_benchmarks_mean_and_subtasks_and_judges_what_is_preserved(folders, tmp_path, capsys):
    words = ["compare", "--leaderboard", "open_llm_v2", *map(str, folders), "--output_path", str(tmp_path / "report")]
    assert cli.main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "leaderboard_bbh, score, 168 items" in said and "leaderboard, score," in said
    assert "of 37 subtasks" in said
    # the vector's recipe preserves the group, so that every benchmark has a verdict
    text = (tmp_path / "report" / "report.md").read_text()
    assert "leaderboard_musr" in text and "cannot tell" in text


def test_every_list_of_instructions_is_compared_without_a_leaderboard_too(folders):
    rows = ge.compare(*folders, tasks=["leaderboard_ifeval"])
    assert {row.metric for row in rows} == {
        f"{level}_level_{kind}_acc" for level in ("prompt", "inst") for kind in ("strict", "loose")
    }
    reported = read_run(folders[0]).results["results"]["leaderboard_ifeval"]
    for row in rows:
        assert row.baseline == pytest.approx(reported[f"{row.metric},none"])


def test_a_run_against_itself_changes_no_score(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "again")
    for row in ge.compare(folders[0], tmp_path / "again", leaderboard="open_llm_v2"):
        assert (row.difference, row.helped, row.harmed) == (0, 0, 0)
        assert row.p != row.p or row.p == 1
