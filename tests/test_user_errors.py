"""What a user mends is told at once, in one short line, with the documented exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from grains_eval.errors import GrainsError, unknown


def test_an_expected_error_under_lm_eval_exits_with_2(tmp_path: Path) -> None:
    script = tmp_path / "lm_eval"
    script.write_text(
        "from grains_eval.errors import GrainsError, one_line_errors\none_line_errors()\n"
        "raise GrainsError('no such\\nthing')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (2, "grains_hf: no such thing\n")


def test_lists_of_known_names_are_short() -> None:
    names = [f"argument_{index}" for index in range(60)]
    said = str(unknown("argumnt_7", names, "model argument"))
    assert "did you mean 'argument_7'" in said and "among the 60 known" in said
    assert said.count("argument_") == 13


def test_a_misspelt_flag_is_named_with_its_correction(capsys: pytest.CaptureFixture[str]) -> None:
    from grains_eval.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["build", "--confg", "recipe.yaml", "--output_path", "x"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --confg; did you mean --config?" in capsys.readouterr().err


def test_pictures_of_a_file_are_found_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grains_eval.examples import load_examples
    from grains_eval.recipes import load_recipe

    home = tmp_path / "home"
    home.mkdir()
    Image.new("RGB", (4, 4)).save(home / "dot.png")
    (home / "rows.jsonl").write_text('{"prompt": "what?", "chosen": "a", "rejected": "b", "picture": "dot.png"}\n')
    (home / "recipe.yaml").write_text(
        "name: x\ndata: {path: rows.jsonl, images: picture, examples: 1, development: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(home / "recipe.yaml")
    assert load_examples(recipe.data).build[0].images[0].size == (4, 4)
    variant = recipe.variant("v", {"attribution": {"top_k": 3}})
    assert load_examples(variant.data).build[0].images[0].size == (4, 4)
    assert "folder" not in recipe.to_yaml()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that lm_eval was called with these words."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the model sets its own

    def type_in(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["/bin/lm_eval", "run", "--model", "grains_hf", "--tasks", "t", *words])

    return type_in


def test_an_output_path_of_lm_eval_is_refused_before_the_model_loads(
    typed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grains_eval.harness.evaluate import evaluate
    from grains_eval.harness.model import GrainsHF

    nowhere = {"pretrained": str(tmp_path / "model")}  # what is said of it tells that the output path passed
    (tmp_path / "file").write_text("kept")
    (tmp_path / "lm.yaml").write_text(f"output_path: {tmp_path / 'file'}\n")
    (tmp_path / "file.json").write_text("{}")
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path / "locked" and access(place, mode))
    (tmp_path / "locked").mkdir()
    for words, says in (
        (["--output_path", str(tmp_path / "file")], "file': it is not a folder"),
        (["-o", str(tmp_path / "file" / "deeper" / "runs")], "file': it is not a folder"),
        ([f"--output={tmp_path / 'file' / 'x.json'}"], "file': it is not a folder"),
        (["-o", str(tmp_path / "locked" / "runs")], "locked': no permission"),
        (["--config", str(tmp_path / "lm.yaml")], "file': it is not a folder"),
    ):
        typed(*words)
        with pytest.raises(GrainsError, match=f"nothing can be written to '.*{says}; choose another --output_path"):
            GrainsHF.create_from_arg_obj(nowhere)
    for words in (
        [],
        ["-o", str(tmp_path / "new" / "runs")],
        ["-o", str(tmp_path / "file.json")],  # lm-eval adds the date to its name
        ["-o", str(tmp_path / "new"), "--config", str(tmp_path / "lm.yaml")],
    ):
        typed(*words)
        with pytest.raises(GrainsError, match="model' is not a folder"):
            GrainsHF.create_from_arg_obj(nowhere)
    assert not (tmp_path / "new").exists() and (tmp_path / "file").read_text() == "kept"
    with pytest.raises(GrainsError, match="nothing can be written to"):
        evaluate(nowhere, "demo_text_split", output_path=tmp_path / "file")


@pytest.mark.slow
def test_errors_as_typed_end_in_one_line_and_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for arguments, says in (
        (
            ["pretrained=./nowhere"],
            "grains_hf: pretrained='./nowhere' is not a folder; give a folder with a config.json",
        ),
        (["pretrained=x,dtype=float3"], "grains_hf: dtype=float3 is not a torch dtype"),
        (
            ["pretrained=x", "-o", "file"],
            f"grains_hf: nothing can be written to '{tmp_path / 'file'}': it is not a folder",
        ),
    ):
        words = ["-m", "lm_eval", "--model", "grains_hf", "--tasks", "demo_text_split", "--model_args", *arguments]
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, env=os.environ, cwd=tmp_path
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith(says)
        assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_model_is_not_evaluated() -> None:
    from grains_eval.harness.evaluate import evaluate

    with pytest.raises(GrainsError, match="a int cannot be evaluated; give load_model"):
        evaluate(3, ["mmlu"])  # type: ignore[arg-type]


def test_pictures_may_be_paths(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from grains_eval.models.image_inputs import check_images

    Image.new("RGB", (4, 4)).save(tmp_path / "dot.png")
    lm = SimpleNamespace(max_images=None, image_width=None, image_height=None, image_max_side=None, rgb=True)
    assert check_images(lm, [str(tmp_path / "dot.png")], "item")[0].size == (4, 4)
    with pytest.raises(GrainsError, match=r"item: image '.*none\.png' cannot be read"):
        check_images(lm, [str(tmp_path / "none.png")], "item")
