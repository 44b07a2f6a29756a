"""What a recipe may name, as it is listed."""

from __future__ import annotations

from grains_eval.study.registered_names import registered_names


def test_names_stand_under_the_key_that_takes_them() -> None:
    tables = {key: {entry.name: entry for entry in entries} for key, entries in registered_names().items()}
    assert {"grains", "caa", "lora", "prompt", "found_tokens"} <= set(tables["vectors.method"])
    assert {"integrated_gradients", "random"} <= set(tables["attribution.method"])
    assert {"top_k", "agreement", "transfer"} <= set(tables["attribution.selection"])
    assert {"add", "add_renormalised"} <= set(tables["steering.operator"])
    caa = tables["vectors.method"]["caa"]
    assert caa.module == "grains_eval.vectors.caa" and caa.summary.startswith("CAA: mean over the pairs")
    assert all(entry.summary.endswith(".") for table in tables.values() for entry in table.values())
