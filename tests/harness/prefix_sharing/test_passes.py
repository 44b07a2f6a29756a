"""One pass computes no more than is read."""

from __future__ import annotations

from grains_eval.harness.prefix_sharing.loglikelihood import score
from tests.harness.prefix_sharing.test_loglikelihood import (
    LIMIT,
)


def test_logits_are_computed_only_where_they_are_read(loaded_text):
    model = loaded_text("llama").model
    positions = []
    handle = model.get_output_embeddings().register_forward_hook(lambda *args: positions.append(args[2].shape[:-1]))
    score(model, [(list(range(3, 30)), [5, 6, 7]), (list(range(3, 30)), [8, 9])], [()], max_length=LIMIT)
    handle.remove()
    assert positions == [(1, 1), (1, 3)]
