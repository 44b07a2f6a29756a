"""Scores of an unfinished build answer for the same example, setting, model and seed alone."""

from __future__ import annotations

from dataclasses import replace

from grains_eval.study.cache import AttributionCache


def test_scores_are_kept_apart_by_model_seed_and_responses(loaded_text, tmp_path):
    from grains_eval.models import encode
    from grains_eval.recipes import AttributionConfig
    from grains_eval.types import PreferenceExample

    example = PreferenceExample("e", "h", "Question what is paris Answer", " yes", " no")
    encoded = encode(loaded_text("llama"), example)
    cache = AttributionCache(tmp_path, 0, "model")
    config = AttributionConfig()
    files = {
        cache.file(encoded, config),
        replace(cache, seed=1).file(encoded, config),
        replace(cache, model="other").file(encoded, config),
        cache.file(replace(encoded, rejected=encoded.chosen), config),
        cache.file(replace(encoded, embeddings=encoded.embeddings + 1), config),
        cache.file(encoded, AttributionConfig(steps=21)),
    }
    assert len(files) == 6
    assert cache.file(encoded, AttributionConfig(top_k=3)) == cache.file(encoded, config), "selection changes no score"
