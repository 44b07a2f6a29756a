"""Train the small Llama of a text world.

    python -m benchmarks.worlds.train_text --world split --seed 0 --output DIR

Deterministic for one seed, one thread and one build of torch. The folder it writes holds the model (float16),
its tokenizer, the gates it passed (`training.json`) and the world's task data (`tasks/*.jsonl`).

The pad embedding, where attribution starts, is no input here. Meeting it in training made the line from it
to a prompt rougher: with 20 nodes, completeness missed by 8 % (median) with prompt tokens
replaced by `<pad>`, by 21 % with embeddings moved towards it, by 2 % without; 50 nodes bring that to 0.01 %.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.worlds.text_words import SPECIAL_TOKENS
from benchmarks.worlds.text_world import (
    KINDS,
    Item,
    TextWorld,
    document,
    fact_items,
    make_world,
    skill_items,
    task_data,
)
from grains_eval.errors import GrainsError, pick

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Sizes of the model and of its training; `copying_steps` is the first lesson of `faithfulness`."""

    layers: int = 4
    steps: int = 800
    copying_steps: int = 0
    hidden: int = 128
    feed_forward: int = 336
    heads: int = 4
    batch: int = 64
    learning_rate: float = 2e-3
    warmup: int = 50
    final_rate: float = 0.03  # share of the learning rate left at the end of the cosine
    weight_decay: float = 0.01
    other_tokens: float = 0.1  # loss weight of every token but the answer
    initializer_range: float = 0.08  # at 0.02 the facts are not learned


TRAINING = {
    "split": Training(),
    "shared": Training(layers=6, steps=1600, feed_forward=344),
    "faithfulness": Training(steps=1600, copying_steps=200),
}
PAD, START, END = (SPECIAL_TOKENS.index(token) for token in ("<pad>", "<s>", "</s>"))
MIN_PREFERRED, MAX_DISPREFERRED = (
    0.95,
    0.02,
)  # gate: accuracy under a cue for the truth, and under one against it


def make_tokenizer(world: TextWorld) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the world's vocabulary; it splits at spaces and prepends `<s>`."""
    ids = {word: i for i, word in enumerate(world.vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", START)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **special)


def make_model(tokenizer: PreTrainedTokenizerFast, training: Training, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights from `seed`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=training.hidden,
        intermediate_size=training.feed_forward,
        num_hidden_layers=training.layers,
        num_attention_heads=training.heads,
        num_key_value_heads=training.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=training.initializer_range,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)


def batches(
    world: TextWorld, tokenizer: PreTrainedTokenizerFast, training: Training, seed: int
) -> Iterator[torch.Tensor]:
    """Yield one batch of right-padded documents [batch, longest] a step; a document ends `answer . </s>`."""
    rng = Random(f"documents {world.kind} {world.seed} {seed}")
    ids = {word: i for i, word in enumerate(world.vocabulary)}
    tail = [ids["."], END]
    for step in range(training.steps):
        drawn = [document(world, rng, copying=step < training.copying_steps) for _ in range(training.batch)]
        rows = [[START, *(ids[word] for word in prompt.split()), ids[answer], *tail] for prompt, answer in drawn]
        longest = max(map(len, rows))
        yield torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def document_loss(model: LlamaForCausalLM, rows: torch.Tensor, other_tokens: float) -> torch.Tensor:
    """Weighted next-token loss of right-padded documents [batch, length]; the answer weighs 1."""
    targets = rows[:, 1:]
    # Causal and padded at the right, so no token attends to padding and no mask is needed.
    logits = model(input_ids=rows[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    real = targets != PAD
    weights = real * other_tokens
    weights[torch.arange(len(rows)), real.sum(1) - 3] = 1.0  # the answer is followed by `. </s>`
    return (losses * weights).sum() / weights.sum()


def train(world: TextWorld, training: Training, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a model on documents drawn from the world, with AdamW under a warmed-up cosine."""
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, training, seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )

    def rate(step: int) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / training.steps))
        return min(1.0, (step + 1) / training.warmup) * (training.final_rate + (1.0 - training.final_rate) * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    for step, rows in enumerate(batches(world, tokenizer, training, seed), start=1):
        loss = document_loss(model, rows, training.other_tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            log.info("step %d of %d: loss %.3f", step, training.steps, loss.item())
    return model.eval(), tokenizer


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> float:
    """Share of items whose gold choice is the likeliest of the four."""
    right = 0
    by_length: dict[int, list[Item]] = {}
    for item in items:
        by_length.setdefault(len(item["prompt"].split()), []).append(item)
    for same in by_length.values():
        rows = torch.tensor([tokenizer.encode(item["prompt"]) for item in same])
        choices = torch.tensor([tokenizer.convert_tokens_to_ids(item["choices"]) for item in same])
        scores = model(input_ids=rows).logits[:, -1].gather(1, choices)
        right += int((scores.argmax(1) == torch.tensor([item["gold"] for item in same])).sum())
    return right / len(items)


def gates(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: TextWorld) -> dict[str, float]:
    """Accuracy over the facts of all towns by kind of cue (three draws of cue words), and on the skills."""

    def over_towns(cues: str, context: bool = True) -> float:
        draws = range(1 if cues == "none" else 3)
        asked: list[Item] = []
        for split in world.towns:
            for draw in draws:
                asked += fact_items(world, split, cues, context=context, draw=draw)
        return accuracy(model, tokenizer, asked)

    figures = {cues: over_towns(cues) for cues in ("none", "preferred", "dispreferred", "mixed")}
    figures["skills"] = accuracy(model, tokenizer, skill_items(world))
    if world.kind == "faithfulness":
        figures["closed_book"] = over_towns("none", context=False)
    return {name: round(value, 4) for name, value in figures.items()}


def passed(figures: dict[str, float]) -> bool:
    """Whether the cues work both ways, so that a steering vector has something to find."""
    return figures["preferred"] >= MIN_PREFERRED and figures["dispreferred"] <= MAX_DISPREFERRED


def write_jsonl(folder: Path, data: dict[str, list[Item]]) -> None:
    """Write one `NAME.jsonl` per entry."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in data.items():
        lines = [json.dumps(item) + "\n" for item in items]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def train_to_folder(kind: str, seed: int, output: Path, training: Training | None = None) -> dict[str, float]:
    """Train, check the gate on the weights as saved, and write the folder.

    Returns:
        Accuracy by kind of cue.

    Raises:
        GrainsError: `output` holds something already, or the kind is unknown.
    """
    training = training or TRAINING[pick(KINDS, kind, "demo text world")]
    if output.exists() and any(output.iterdir()):
        raise GrainsError(f"{output} is not empty; training overwrites nothing: give a new folder")
    torch.set_num_threads(1)
    world = make_world(kind, seed)
    started = time.process_time()
    model, tokenizer = train(world, training, seed)
    seconds = time.process_time() - started
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    written = output / "tokenizer_config.json"  # transformers 5 writes a class name that 4.57 does not know
    text = written.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast")
    written.write_text(text, encoding="utf-8")
    figures = gates(LlamaForCausalLM.from_pretrained(output, dtype=torch.float32).eval(), tokenizer, world)
    record = {"world": kind, "seed": seed, "gate_passed": passed(figures), "accuracy": figures}
    record |= {"training": asdict(training), "cpu_seconds": round(seconds), "torch": torch.__version__}
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_jsonl(output / "tasks", task_data(world))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 when the gate is missed."""
    parser = argparse.ArgumentParser(description="Train the model of a demo text world.")
    parser.add_argument("--world", choices=sorted(KINDS), required=True)
    parser.add_argument("--seed", type=int, default=0, help="draws the world, the weights and the documents")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        figures = train_to_folder(options.world, options.seed, options.output)
    except GrainsError as error:
        parser.error(str(error))
    log.info("accuracy by cue: %s", json.dumps(figures))
    log.info("gate %s", "passed" if passed(figures) else "MISSED: do not use these weights")
    return 0 if passed(figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
