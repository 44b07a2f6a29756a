"""Largest difference between shared and plain scores on a tiny model of every family, float32.

    python -m benchmarks.exactness --output benchmarks/results/exactness.json

The plain side is one hooked forward pass per request. Requests and steering configurations are those of the tests:
several choices a context, single tokens, truncated and one-token contexts, shared preambles; first to last layer,
every position rule, attention heads, both operators, two vectors at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import common
from grains_eval.harness.prefix_sharing import plan
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, score
from grains_eval.models import load
from tests import tiny
from tests.harness.prefix_sharing import test_image_loglikelihood as pictures
from tests.harness.prefix_sharing import test_loglikelihood as text


def text_scores(family: str, dtype: str) -> tuple[list[Any], list[Any]]:
    """Plain and shared scores of one text family, per configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = tiny.build_text(family, folder)
        model = load({"pretrained": str(path), "dtype": dtype}, device="cpu").model
    wanted, asked = text.configurations(model), text.greedy_choice(model, text.requests())
    plain = [text.plainly(model, asked, each) for each in wanted]
    return plain, score(model, asked, wanted, max_length=text.LIMIT)


def picture_scores(family: str, dtype: str) -> tuple[list[Any], list[Any]]:
    """The same for one vision-language family."""
    with tempfile.TemporaryDirectory() as folder:
        path = tiny.build_vision(family, folder)
        lm = pictures.ImageModel(pretrained=str(path), dtype=dtype, device="cpu", batch_size=2)
    wanted, asked = text.configurations(lm.model), pictures.asked()
    lm.memo = Memo(wanted)
    plain, shared = [], []
    for index, each in enumerate(wanted):
        lm.memo.active = index
        shared.append(lm.loglikelihood(asked, disable_tqdm=True))
        plain.append(pictures.plainly(lm, asked, each))
    return plain, shared


def main() -> None:
    """Compare every family."""
    arguments = common.parser(__doc__.splitlines()[0]).parse_args()
    common.start(arguments)
    tiny.allow_missing_torchvision()
    plan._PASS_COST = 0  # share even the shortest preamble
    cases: list[tuple[str, Callable[..., Any]]] = [(name, text_scores) for name in text.FAMILIES]
    cases += [(name, picture_scores) for name in tiny.VISION]
    rows = []
    for family, scores in cases[:2] if arguments.smoke else cases:
        plain, shared = scores(family, arguments.dtype)
        difference = text.furthest(plain, shared)
        same = [[hit for _, hit in each] for each in plain] == [[hit for _, hit in each] for each in shared]
        common.check_exact(difference, same, arguments.dtype, f"exactness, {family}")
        rows.append(
            {
                "family": family,
                "pictures": scores is picture_scores,
                "configurations": len(plain),
                "requests": len(plain[0]),
                "largest difference (nats)": difference,
                "same greedy answers": same,
            }
        )
    common.report("exactness", rows, arguments)


if __name__ == "__main__":
    main()
