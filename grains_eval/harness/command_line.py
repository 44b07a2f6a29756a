"""Checks of lm-eval's command line before a model loads; lm-eval itself would only warn afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval._cli import HarnessCLI
from lm_eval.config.evaluate_config import EvaluatorConfig

from grains_eval.artifacts.save import check_writable
from grains_eval.errors import under_lm_eval


def check_output() -> None:
    """Refuse an `--output_path` of the command that runs, or of its `--config`, where no results can be written.

    Raises:
        GrainsError: it is a file, lies in one, or may not be written to.
    """
    if not under_lm_eval():
        return
    options: dict[str, Any] = vars(HarnessCLI().parse_args())
    settings = EvaluatorConfig.load_yaml_config(options["config"]) if options.get("config") else {}
    given = options.get("output_path") or settings.get("output_path")
    if given:
        path = Path(given)
        check_writable(path.parent if path.suffix == ".json" else path)  # lm-eval dates a .json and writes beside it
