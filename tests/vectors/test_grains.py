"""GrAInS on a linear model, where every direction follows from the definitions."""

from __future__ import annotations

import torch

from grains_eval.attribution import attribute
from grains_eval.recipes import parse_recipe
from grains_eval.vectors import BuildContext, run_method
from tests.reference.linear import encoded, expected_scores, linear_model, maps


def test_directions_equal_the_masked_contrast_worked_out_by_hand():
    loaded = linear_model()
    examples = [encoded(loaded, ids, 5, 6, str(ids)) for ids in ([1, 2, 3, 4], [1, 4, 2, 3], [1, 3, 7, 2])]
    recipe = parse_recipe({"name": "t", "data": {"path": "x.jsonl"}, "attribution": {"top_k": 1}})
    context = BuildContext(loaded, examples, recipe, lambda one, config: attribute(loaded, one, config))
    vectors = run_method(context).vectors
    pad = loaded.model.get_input_embeddings().weight.detach()[0]
    for layer, matrix in enumerate(maps(loaded)):
        sides = []
        for sign in (1, -1):
            deltas = []
            for example in examples:
                scores = sign * expected_scores(loaded, example, pad)
                scores[0] = -torch.inf  # the special token is no candidate
                best = int(scores.argmax())
                if scores[best] > 0:
                    deltas.append(matrix @ (example.embeddings[best] - pad))
            mean = torch.stack(deltas).mean(0)
            sides.append(mean / mean.norm())
        torch.testing.assert_close(vectors.directions[layer], sides[0] - sides[1], rtol=1e-4, atol=1e-5)
