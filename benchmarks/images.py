"""Multiple choice about images: contexts shared against every request on its own, one run and a sweep.

    python -m benchmarks.images --output benchmarks/results/images.json

lm-eval's `hf-multimodal` refuses to score continuations after images, so there are two slow sides. `as hf` does what
`hf` does with text: processor, vision tower and prompt anew for every request, in batches, under hooks, and a
log-softmax over the logits of the whole sequence. `plain` is this project's own plain path (`share_context=false`),
which makes logits only where they are read. The model is a LLaVA-Next of random weights, a vocabulary as LLaVA's,
images of 336 tokens and answers of eight or so.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM

from benchmarks import common, peak
from grains_eval.harness.images import ImageLoglikelihoodMixin
from grains_eval.harness.prefix_sharing.image_loglikelihood import SharedImagesMixin
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, SharedContextMixin
from grains_eval.models import image_inputs
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


@torch.no_grad()
def as_hf(lm, requests) -> list[tuple[float, bool]]:
    """Score requests as lm-eval's `hf` scores text."""
    answers = []
    prepared = [lm.prepare_image_request(request) for request in requests]
    for start in range(0, len(prepared), int(lm.batch_size)):
        batch = prepared[start : start + int(lm.batch_size)]
        texts = [request.context + request.continuation for request in batch]
        features = image_inputs.process(lm, texts, [request.images for request in batch], batch[0].where)
        lengths = features["attention_mask"].sum(dim=1).tolist()
        with lm.steering():
            logprobs = lm.model(**features).logits.log_softmax(dim=-1)
        for row, (request, length) in enumerate(zip(batch, lengths, strict=True)):
            first = length - lm.continuation_length(request)
            targets = features["input_ids"][row, first:length]
            read = logprobs[row, first - 1 : length - 1]
            greedy = bool((read.argmax(dim=-1) == targets).all())
            answers.append((float(read.gather(-1, targets[:, None]).sum()), greedy))
    return answers


def save_model(folder: Path, layers: int, width: int, vocabulary: int, side: int) -> None:
    """A LLaVA-Next whose images are cut into tiles of `side` pixels, 14 to a patch."""
    words = tiny.tokenizer(["<image>"], bos=True, image="<image>", extra_special_tokens={"image_token": "<image>"})
    grid = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    text = {
        **tiny.LLAMA,
        "vocab_size": max(vocabulary, tiny.LLAMA["vocab_size"]),
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
    """Run one unsteered evaluation, then sweeps that start at several layers."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_064)
    parser.add_argument("--questions", type=int, default=1)
    parser.add_argument("--strengths", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.vocabulary, arguments.strengths = 4, 64, 0, 3
    common.start(arguments)
    side = 28 if arguments.smoke else 112
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), arguments.layers, arguments.width, arguments.vocabulary, side)
        lm = Steered(pretrained=folder, dtype=arguments.dtype, device=arguments.device, batch_size=arguments.batch_size)
    requests = [
        Instance("loglikelihood", {}, (QUESTION, answer, {"visual": [image]}), 0, metadata=("images", number, 1))
        for number, image in enumerate(tiny.picture(seed, (2 * side, 2 * side)) for seed in range(arguments.questions))
        for answer in ANSWERS
    ]
    model = lm.model

    def run(configurations, side):
        lm.share_context = side == "ours"
        lm.memo = Memo(configurations) if side == "ours" else None
        found = []
        for index, configuration in enumerate(configurations):
            lm.configuration = configuration
            if lm.memo is not None:
                lm.memo.active = index
            found.append(as_hf(lm, requests) if side == "as hf" else lm.loglikelihood(requests, disable_tqdm=True))
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
    rate = peak.matmul_rate(arguments.device, arguments.dtype)
    for place, layer in places.items():
        strengths = [] if layer is None else [0.5 * (index + 1) for index in range(arguments.strengths)]
        configurations = [(), *((common.steering(model, [layer], each),) for each in strengths)]
        names = ("as hf", "plain", "ours")
        times = common.interleaved(
            {name: partial(run, configurations, name) for name in names}, arguments.repeats, arguments.device
        )
        mine = times["ours"]
        difference, same = 0.0, True
        for name in names[:-1]:
            for theirs, ours in zip(times[name].result, mine.result, strict=True):
                difference = max(difference, common.furthest(theirs, ours))
                same &= common.same_choices(theirs, ours, len(ANSWERS))
        common.check_exact(difference, same, arguments.dtype, f"images, {place}")
        done = peak.operations(partial(run, configurations, "ours"))
        rows.append(
            {
                "steered from": place,
                "configurations": len(configurations),
                "context tokens": width,
                "requests": len(requests),
                "as hf s": times["as hf"].median,
                "plain s": times["plain"].median,
                "shared s": mine.median,
                "as hf / shared": times["as hf"].median / mine.median,
                "plain / shared": times["plain"].median / mine.median,
                "share of matmul peak": done / mine.median / rate,
                "as hf / shared at peak": times["as hf"].median / (done / rate),
                "largest difference (nats)": difference,
                "same choices": same,
            }
        )
    common.report("images", rows, arguments)


if __name__ == "__main__":
    main()
