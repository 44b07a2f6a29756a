"""`grains-eval methods` lists what a recipe may name."""

from grains_eval import cli


def test_methods_are_listed_by_the_key_that_names_them(capsys):
    assert cli.main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.strip() in {"vectors.method", "attribution.method", "steering.operator"}]
    assert [head.strip() for head in heads] == ["vectors.method", "attribution.method", "steering.operator"]
    (caa,) = [line for line in lines if line.split()[:1] == ["caa"]]
    assert "CAA: mean over the pairs" in caa and "grains_eval.vectors.caa" in caa
