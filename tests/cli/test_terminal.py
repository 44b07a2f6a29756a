"""Progress, tables and rates as they are printed."""

from grains_eval.cli.terminal import FILE_WIDTH, bars, output, rate


def test_progress_gives_every_item_and_says_so_in_a_log(capsys):
    assert list(bars(["a", "b", "c"], "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("reading: 3/3 in ")


def test_tables_in_a_file_are_wide_enough(capsys):
    output().print("x" * FILE_WIDTH)
    assert capsys.readouterr().out == "x" * FILE_WIDTH + "\n"


def test_rate_reads_well():
    assert (rate(4.0), rate(0.25), rate(0.0)) == ("4.0/s", "4.0 s each", "")
