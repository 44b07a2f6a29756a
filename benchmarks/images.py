"""Multiple choice about pictures: contexts shared against every request on its own, one run and a sweep.

    python -m benchmarks.images --output benchmarks/results/images.json

lm-eval's `hf-multimodal` refuses to score continuations after pictures, so the slow side is this project's
own plain path (`share_context=false`): processor, vision tower and prompt anew for every request, in batches,
under hooks. The model is a LLaVA-Next of random weights whose pictures take 336 tokens.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM

from benchmarks import common
from grains_eval.harness.multimodal import ImageLoglikelihoodMixin
from grains_eval.harness.shared_context import Memo, SharedContextMixin
from grains_eval.harness.shared_images import SharedImagesMixin
from grains_eval.steering import applied
from tests import tiny

QUESTION = "<image>\nwhat is the colour of the square"
ANSWERS = [" red and green or blue or red", " blue and red or green or no", " no to it", " yes it is safe"]


class Steered(SharedContextMixin, SharedImagesMixin, ImageLoglikelihoodMixin, HFMultimodalLM):
    """The vision-language `grains_hf` with a steering given in memory."""

    configuration = ()

    @property
    def steering_configuration(self):
        """What is applied."""
        return self.configuration

    @contextmanager
    def steering(self):
        """Under hooks."""
        with ExitStack() as stack:
            for each in self.configuration:
                stack.enter_context(applied(self.model, each))
            yield


def save_model(folder: Path, layers: int, width: int, side: int) -> None:
    """A LLaVA-Next whose pictures are cut into tiles of `side` pixels, 14 to a patch."""
    words = tiny.tokenizer(["<image>"], bos=True, image="<image>", extra_special_tokens={"image_token": "<image>"})
    grid = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    text = {
        **tiny.LLAMA,
        "hidden_size": width,
        "intermediate_size": -(-width * 8 // 3 // 64) * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "num_key_value_heads": max(1, width // 64),
    }
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=width // 2,
            intermediate_size=2 * width,
            num_hidden_layers=max(2, layers // 2),
            num_attention_heads=max(1, width // 128),
            image_size=side,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=(side // 14) ** 2,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=grid,
        ),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )
    tiny.save(transformers.LlavaNextForConditionalGeneration(config), processor, folder)


def main() -> None:
    """Run one unsteered evaluation, then sweeps that start at several blocks."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--questions", type=int, default=1)
    parser.add_argument("--strengths", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.strengths = 4, 64, 3
    common.start(arguments)
    side = 28 if arguments.smoke else 112
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), arguments.layers, arguments.width, side)
        lm = Steered(pretrained=folder, dtype=arguments.dtype, device=arguments.device, batch_size=arguments.batch_size)
    requests = [
        Instance("loglikelihood", {}, (QUESTION, answer, {"visual": [picture]}), 0, metadata=("images", number, 1))
        for number, picture in enumerate(
            tiny.picture(seed, (2 * side, 2 * side)) for seed in range(arguments.questions)
        )
        for answer in ANSWERS
    ]
    model = lm.model

    def run(configurations, share):
        lm.share_context = share
        lm.memo = Memo(configurations) if share else None
        found = []
        for index, configuration in enumerate(configurations):
            lm.configuration = configuration
            if lm.memo is not None:
                lm.memo.active = index
            found.append(lm.loglikelihood(requests, disable_tqdm=True))
        lm.memo, lm.configuration = None, ()
        return found

    places = {
        "unsteered": None,
        "first": 0,
        "middle": arguments.layers // 2,
        "last quarter": arguments.layers * 3 // 4,
        "last": arguments.layers - 1,
    }
    prepared = lm.prepare_image_request(requests[0])
    width = lm.tok_batch_multimodal_encode([prepared.context], [list(prepared.images)])["input_ids"].shape[1]
    lm.loglikelihood(requests[:1], disable_tqdm=True)  # warm up
    rows = []
    for place, block in places.items():
        strengths = [] if block is None else [0.5 * (index + 1) for index in range(arguments.strengths)]
        configurations = [(), *((common.steering(model, [block], each),) for each in strengths)]
        sides = {name: partial(run, configurations, name == "ours") for name in ("theirs", "ours")}
        times = common.interleaved(sides, arguments.repeats, arguments.device)
        results = list(zip(times["theirs"].result, times["ours"].result, strict=True))
        difference = max(common.furthest(theirs, ours) for theirs, ours in results)
        same = all(common.same_choices(theirs, ours, len(ANSWERS)) for theirs, ours in results)
        common.check_exact(difference, same, arguments.dtype, f"images, {place}")
        rows.append(
            {
                "steered from": place,
                "configurations": len(configurations),
                "context tokens": width,
                "requests": len(requests),
                "plain s": times["theirs"].median,
                "shared s": times["ours"].median,
                "ratio": times["theirs"].median / times["ours"].median,
                "largest difference (nats)": difference,
                "same choices": same,
            }
        )
    common.report("images", rows, arguments)


if __name__ == "__main__":
    main()
