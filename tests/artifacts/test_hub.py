"""Push to a hub and load from it: the same artifact, a card with results, nothing replaced unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

from grains_eval import cli
from grains_eval.artifacts.hub import push
from grains_eval.artifacts.layout import fingerprint
from grains_eval.artifacts.load import load_vectors, locate
from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.artifacts.hub import serving
from tests.artifacts.samples import vectors
from tests.comparison.folders import TaskData, bits, write_run


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as made:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield made


@pytest.fixture
def folder(tmp_path):
    return save_vectors(vectors(), tmp_path / "ours")


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_pushed_is_what_is_loaded(hub, folder):
    before = contents(folder)
    where = push(folder, "org/mine")
    assert where.startswith(f"{hub.url}/org/mine/commit/") and "Bearer hf_secret" in hub.tokens
    written = hub.repositories["org/mine"]["main"]
    assert set(written) == set(before)
    assert all(written[name] == content for name, content in before.items() if name != "README.md")
    assert contents(folder) == before
    loaded = load_vectors("org/mine")
    assert fingerprint(loaded) == fingerprint(load_vectors(folder))
    assert loaded.recommended == vectors().recommended


def test_only_what_an_artifact_holds_is_uploaded(hub, folder):
    (folder / "secret.txt").write_text("x")
    (folder / "weights.bin").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    push(folder, "org/mine")
    uploaded = hub.repositories["org/mine"]["main"]
    assert uploaded and not {"secret.txt", "weights.bin", ".git/config"}.intersection(uploaded)


def test_what_a_link_leads_to_is_not_uploaded(hub, folder, tmp_path):
    (tmp_path / "secret").write_text("hush")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "0-0.png").symlink_to(tmp_path / "secret")
    with pytest.raises(GrainsError, match="is a link that leads out of the folder"):
        push(folder, "org/mine")
    assert "org/mine" not in hub.repositories


def test_revisions(hub, folder, tmp_path):
    first = push(folder, "org/mine").rpartition("/")[2]
    other = save_vectors(vectors(16), tmp_path / "other")
    push(other, "org/mine@wide")
    assert load_vectors("org/mine").directions[1].shape == (8,)
    assert load_vectors("org/mine@wide").directions[1].shape == (16,)
    push(other, "org/mine", overwrite=True)
    assert load_vectors("org/mine").directions[1].shape == (16,)
    assert torch.equal(load_vectors(f"org/mine@{first}").directions[1], vectors().directions[1])
    with pytest.raises(GrainsError, match="neither a local folder nor a reachable hub repository"):
        locate("org/mine@nowhere")


def test_an_artifact_that_is_there_stays(hub, folder):
    push(folder, "org/mine")
    hub.repositories["org/mine"]["main"]["steering_config.json"] = b"theirs"
    with pytest.raises(GrainsError, match="'org/mine' holds an artifact; push to another branch or pass --overwrite"):
        push(folder, "org/mine")
    assert hub.repositories["org/mine"]["main"]["steering_config.json"] == b"theirs"


@pytest.mark.parametrize("name", ("README.md", "recipe.yaml", "adapter/adapter_model.safetensors", "pictures/logo.png"))
def test_files_of_other_repositories_stay(name, hub, folder):
    """A model of someone's, which is no artifact: each of these would be replaced or deleted."""
    held = {name: b"theirs", "model.safetensors": b"theirs"}
    hub.repositories["org/model"] = {"main": dict(held)}
    with pytest.raises(GrainsError, match=f"'org/model' holds {name}; push to another branch or pass --overwrite"):
        push(folder, "org/model")
    assert hub.repositories["org/model"] == {"main": held}
    del hub.repositories["org/model"]["main"][name]
    push(folder, "org/model")
    assert hub.repositories["org/model"]["main"]["model.safetensors"] == b"theirs"


def test_a_new_branch_keeps_nothing_of_the_artifact_it_began_with(hub, folder):
    push(folder, "org/mine")
    hub.repositories["org/mine"]["main"]["attributions.parquet"] = b"old"
    push(folder, "org/mine@other")
    assert "attributions.parquet" not in hub.repositories["org/mine"]["other"]
    assert "attributions.parquet" in hub.repositories["org/mine"]["main"]


def test_files_of_the_artifact_before_go(hub, folder):
    push(folder, "org/mine")
    held = hub.repositories["org/mine"]["main"]
    held |= {"attributions.parquet": b"old", "LICENSE": b"theirs", "pictures/0-0.png": b"old"}
    push(folder, "org/mine", overwrite=True)
    assert "attributions.parquet" not in held and "pictures/0-0.png" not in held and held["LICENSE"] == b"theirs"


def test_private_and_refused(hub, folder):
    push(folder, "org/mine", private=True)
    assert hub.private["org/mine"]
    hub.refuses = 403
    with pytest.raises(GrainsError, match=r"'org/other' cannot be pushed: .*403") as raised:
        push(folder, "org/other")
    assert "\n" not in str(raised.value)


def test_nobody_there(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(GrainsError, match="'org/mine' cannot be pushed: "):
        push(folder, "org/mine")


@pytest.mark.parametrize("name", ("mine", "org/mine/x", "org/", "org/mine@", "a b/c"))
def test_names_that_are_none(name, hub, folder):
    with pytest.raises(GrainsError, match="is not a name on the hub"):
        push(folder, name)
    assert not hub.asked


def report(tmp_path, found, alpha=0.1):
    """A report about a run that was steered by the vectors, beside one that was not."""
    entry = {"method": "grains", "fingerprint": fingerprint(found), "layers": [4], "strength": 0.5, "unit": "relative"}
    runs = [
        write_run(tmp_path / name, {"t": TaskData({"acc": bits(60, share, seed)})}, steering=steering)
        for name, share, seed, steering in (
            ("baseline", 0.3, 1, None),
            ("steered", 0.8, 2, [entry]),
            ("other", 0.5, 3, [{**entry, "fingerprint": "0" * 16}]),
            ("both", 0.5, 4, [entry, entry]),
        )
    ]
    from rich.console import Console

    from grains_eval.comparison import Analysis

    with open(os.devnull, "w") as nowhere:
        compare_runs(runs, tmp_path / "report", Console(file=nowhere), analysis=Analysis(alpha=alpha))
    return tmp_path / "report"


def test_the_card_carries_measured_results(hub, folder, tmp_path):
    push(folder, "org/mine", report=report(tmp_path, load_vectors(folder)))
    text = hub.repositories["org/mine"]["main"]["README.md"].decode()
    data = ModelCard(text).data
    assert data.base_model == "org/m" and data.base_model_relation == "adapter"
    assert data.library_name == "grains-eval" and {"steering", "grains", "lm-eval"} <= set(data.tags)
    assert data.model_name == "mine" and len(data.eval_results) == 1
    result = data.eval_results[0]
    assert (result.dataset_type, result.metric_type, result.task_type) == ("t", "acc", "text-generation")
    args = result.metric_args
    low, high = args["interval"]
    assert (
        args["n"] == 60
        and low < args["difference"] < high
        and result.metric_value == pytest.approx(args["baseline"] + args["difference"])
    )
    assert "(4: 0.5)" in result.metric_name and "90 % interval" in result.metric_name
    assert text.startswith("---\n") and "# mine" in text
    assert "## Measured" in text and "| t | acc | 4: 0.5 |" in text and text.count("| t | acc |") == 1


def test_a_report_of_other_vectors_is_refused(hub, folder, tmp_path):
    made = report(tmp_path, vectors(16))
    with pytest.raises(GrainsError, match="has no row of these vectors alone"):
        push(folder, "org/mine", report=made)
    for place in (tmp_path / "nowhere", folder):
        with pytest.raises(GrainsError, match="is no report of grains-eval compare"):
            push(folder, "org/mine", report=place)
    assert not hub.asked


def test_the_command(hub, folder, capsys):
    assert cli.main(["push", str(folder), "org/mine@v1"]) == 0
    said = capsys.readouterr().out
    assert f"pushed to {hub.url}/org/mine/commit/" in said and "vectors=org/mine@v1" in said
    assert cli.main(["push", str(folder / "nowhere"), "org/mine"]) == 2
    assert "is not a folder; push takes an artifact folder" in capsys.readouterr().err


@pytest.mark.slow
def test_through_the_environment_alone(folder, tmp_path):
    """As a user has it: `HF_ENDPOINT` and a token, a push, and `vectors=` in another process."""
    with serving() as made:
        env = {**os.environ, "HF_ENDPOINT": made.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        env |= {"HF_TOKEN": "hf_x", "HF_HUB_DISABLE_TELEMETRY": "1"}
        words = [sys.executable, "-m", "grains_eval.cli", "push", str(folder), "org/mine"]
        subprocess.run(words, check=True, env=env, capture_output=True)
        code = "import sys, grains_eval.harness.arguments as a; print(a.parse_steering(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "org/mine@main"], check=True, env=env, capture_output=True, text=True
        )
    assert "AppliedArtifact(source='org/mine@main'" in done.stdout
    assert list(Path(tmp_path / "home" / "hub").glob("models--org--mine/snapshots/*/steering_config.json"))
