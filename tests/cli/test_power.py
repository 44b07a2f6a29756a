"""`grains-eval power`: answers from numbers and from a pilot."""

import pytest

from grains_eval import cli
from grains_eval.comparison.power import mcnemar_items_needed, mcnemar_power
from grains_eval.report.formatting import rounded
from tests.comparison.folders import TaskData, write_run


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("--discordant 0.1 --difference 0.03", ["a difference of 0.03 needs 920 items for power 0.8"]),
        (
            "--sd 0.4 --difference 0.03 --n 500",
            [
                "a difference of 0.03 needs 1,594 items for power 0.8",
                "500 items find a difference of 0.03 with power 0.31",
                "500 items find a difference of 0.0545 with power 0.8",
            ],
        ),
        ("--discordant 0.001 --n 50", ["50 items find no difference with power 0.8"]),
        (
            "--sd 0.4 --design_effect 2.5 --difference 0.03 --power 0.9",
            ["a difference of 0.03 needs 4,672 items for power 0.9"],
        ),
    ],
)
def test_power_from_numbers(words, lines, capsys):
    assert cli.main(["power", *words.split()]) == 0
    *said, basis = capsys.readouterr().out.splitlines()
    assert said == lines and "two-sided, level 0.05, before any adjustment" in basis


def test_power_from_a_pilot(tmp_path, capsys):
    for name, right in (("baseline", 40), ("steered", 52)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [1.0] * right + [0.0] * (100 - right)})})
    places = [str(tmp_path / name) for name in ("baseline", "steered")]
    assert cli.main(["power", *places, "--difference", "0.06", "--n", "300"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "steered" in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[:6] == ["t", "acc", "steered", "100", "+12.0", "6.0"]
    needed = mcnemar_items_needed(0.09, 0.03)
    assert cells[6:8] == [rounded(needed), f"{mcnemar_power(0.09, 0.03, 300):.2f}"]
    assert cli.main(["power", *places, "--metrics", "f1"]) == 2
    assert "unknown metric 'f1': known are acc" in capsys.readouterr().err
