"""lm-eval's command line with `grains_hf`: mistakes end in one line before a model loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grains_eval.errors import GrainsError


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
