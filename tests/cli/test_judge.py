"""`judge --gen_kwargs`: values as YAML reads them, lists among them, and one line for what cannot be sent."""

from __future__ import annotations

import pytest

from grains_eval import cli
from grains_eval.cli.judge import _parameters
from tests.judging.runs import write


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["temperature=1,max_tokens=20"], {"temperature": 1, "max_tokens": 20}),
        (["stop=[a,b],seed=3"], {"stop": ["a", "b"], "seed": 3}),
        (['stop=["a,b", c]', "top_p=0.5"], {"stop": ["a,b", "c"], "top_p": 0.5}),
        (
            ["response_format={type: json_object, strict: true}"],
            {"response_format": {"type": "json_object", "strict": True}},
        ),
        (["seed='2020-01-01'"], {"seed": "2020-01-01"}),
    ],
)
def test_parameters(words, found):
    assert _parameters(words) == found


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stop=[a", "is not valid YAML"),
        ("seed=2020-01-01", "cannot be sent: Object of type date is not JSON serializable; quote it"),
        ("seed=2020-13-01", "is not valid YAML: month must be in 1..12"),
        ("temperature=.nan", "cannot be sent: Out of range float values are not JSON compliant"),
        ("temperature", "is not KEY=VALUE"),
        ("temperature=0,n=2", "may not set n"),
    ],
)
def test_parameters_that_cannot_be_sent_are_one_line(word, message, tmp_path, capsys):
    folder = write(tmp_path / "run")
    words = ["judge", str(folder), "--base_url", "http://127.0.0.1:9/v1", "--model", "m", "--gen_kwargs", word]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split()) and "Traceback" not in said
