"""What a user mends is told at once, in one short line, with the documented exit code."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_a_second_build_into_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    from grains_eval.study.build import _claimed

    with _claimed(tmp_path / "vectors"):
        with pytest.raises(GrainsError, match="another process is building"), _claimed(tmp_path / "vectors"):
            pass
        with _claimed(tmp_path / "others"):
            pass
    with _claimed(tmp_path / "vectors"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    from grains_eval.artifacts.save import check_replaceable

    (tmp_path / "file").write_text("")
    with pytest.raises(GrainsError, match="nothing can be written to"):
        check_replaceable(tmp_path / "file" / "vectors")


def test_what_is_no_model_is_not_evaluated() -> None:
    from grains_eval.harness.evaluate import evaluate

    with pytest.raises(GrainsError, match="a int cannot be evaluated; give load_model"):
        evaluate(3, ["mmlu"])  # type: ignore[arg-type]


def test_pictures_may_be_paths(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from grains_eval.models.images import check_pictures

    Image.new("RGB", (4, 4)).save(tmp_path / "dot.png")
    lm = SimpleNamespace(max_images=None, image_width=None, image_height=None, image_max_side=None, rgb=True)
    assert check_pictures(lm, [str(tmp_path / "dot.png")], "item")[0].size == (4, 4)
    with pytest.raises(GrainsError, match=r"item: picture '.*none\.png' cannot be read"):
        check_pictures(lm, [str(tmp_path / "none.png")], "item")
