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
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.worlds.scoring import right
from benchmarks.worlds.text_world import (
    KINDS,
    Item,
    TextWorld,
    document,
    fact_items,
    lessons,
    make_world,
    skill_items,
    task_data,
)
from benchmarks.worlds.tokenizers import LONGEST, encode_documents, make_tokenizer
from grains_eval.errors import GrainsError, pick

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Sizes of the model and of its training.

    Attributes:
        steps: Steps on the world's documents.
        lesson_steps: Most steps before them on each of the world's lessons; fewer where it is learned earlier.
        lesson_right: A lesson is learned where ten batches have so many answers right (noise: .02).
    """

    layers: int = 4
    steps: int = 800
    lesson_steps: int = 0
    lesson_right: float = 0.96
    hidden: int = 128
    feed_forward: int = 336
    heads: int = 4
    batch: int = 64
    learning_rate: float = 2e-3
    warmup: int = 50
    final_rate: float = 0.03  # share of the learning rate left at the end of the cosine
    weight_decay: float = 0.01
    other_tokens: float = 0.1  # loss weight of every token but the answer's
    initializer_range: float = 0.08  # at 0.02 the facts are not learned


TRAINING = {
    "split": Training(),
    "shared": Training(layers=6, steps=1600, feed_forward=344),
    "faithfulness": Training(steps=1400, lesson_steps=1200),
    # without lessons no cue of two words was learned in 1200 steps, with the second one alone none in 400
    "paired": Training(layers=6, steps=800, lesson_steps=1600, lesson_right=0.9, feed_forward=344),
    "chat": Training(layers=6, steps=600, lesson_steps=1200, lesson_right=0.9, feed_forward=344, other_tokens=0.0),
}
LESSON_BATCHES = 10
ANOTHER_DRAW = 1000  # between the seeds of two attempts at one world
# gates: accuracy under a cue for the truth and under one against it, on the skills, and without a stated answer
MIN_PREFERRED, MAX_DISPREFERRED, MIN_SKILLS, MIN_CLOSED_BOOK = 0.95, 0.02, 0.95, 0.95


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
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        initializer_range=training.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def batch(
    world: TextWorld, tokenizer: PreTrainedTokenizerFast, rng: Random, size: int, lesson: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw documents by length, right-padded [batch, longest], and where their answers are, bool of that shape."""
    drawn = encode_documents(tokenizer, [document(world, rng, lesson) for _ in range(size)])
    drawn.sort(key=lambda one: len(one[0]))
    longest = len(drawn[-1][0])
    padded = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in drawn]
    return torch.tensor(padded), torch.tensor([[i in answer for i in range(longest)] for _, answer in drawn])


def document_loss(
    model: LlamaForCausalLM, rows: torch.Tensor, answers: torch.Tensor, other_tokens: float
) -> tuple[torch.Tensor, int]:
    """Weighted sum of next-token losses, and how many answers are the likeliest tokens throughout.

    Documents [batch, length] are padded at the right. A token of an answer weighs 1, every other one `other_tokens`.
    """
    real = rows != model.config.pad_token_id
    length = int(real.sum(1).max())
    targets, real, answers = (each[:, 1:length] for each in (rows, real, answers))
    # Causal and padded at the right, so no token attends to padding and no mask is needed.
    logits = model(input_ids=rows[:, : length - 1]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    weights = (real * other_tokens).masked_fill(answers, 1.0)
    likeliest = (logits.detach().argmax(-1) == targets) | ~answers
    return (losses * weights).sum(), int(likeliest.all(1).sum())


def train(world: TextWorld, training: Training, draw: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, int]:
    """Train a model on documents drawn from the world, with AdamW: the lesson at full rate, then a warmed-up cosine.

    Args:
        world: The world.
        training: Sizes.
        draw: Seed of the weights and the documents.

    Returns:
        The model, its tokenizer, and the steps that the lessons took.
    """
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, training, draw)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    rng = Random(f"documents {world.kind} {world.seed} {draw}")
    model.train()

    def learn(rate: float, lesson: int | None = None) -> float:
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * rate
        rows, answers = batch(world, tokenizer, rng, training.batch, lesson)
        said = int(answers.sum())
        whole = said + training.other_tokens * (int((rows[:, 1:] != tokenizer.pad_token_id).sum()) - said)
        optimizer.zero_grad()
        likeliest = 0
        for part, those in zip(rows.chunk(2), answers.chunk(2), strict=True):  # short documents apart: less padding
            loss, number = document_loss(model, part, those, training.other_tokens)
            (loss / whole).backward()
            likeliest += number
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return likeliest / len(rows)

    taken = 0
    for lesson in range(lessons(world.kind)):
        recent: deque[float] = deque(maxlen=LESSON_BATCHES)
        last = taken + training.lesson_steps
        while taken < last and not _is_learned(recent, training):
            taken += 1
            recent.append(learn(min(1.0, taken / training.warmup), lesson))
            if taken % 200 == 0:
                log.info("step %d, a lesson: %.3f of a batch's answers are likeliest", taken, recent[-1])
        if recent:
            log.info("lesson %s by step %d", "learned" if _is_learned(recent, training) else "NOT learned", taken)
    for step in range(training.steps):
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / training.steps))
        warm = min(1.0, (taken + step + 1) / training.warmup)
        likeliest = learn(warm * (training.final_rate + (1.0 - training.final_rate) * cosine))
        if (step + 1) % 200 == 0:
            log.info("step %d of %d: %.3f of a batch's answers are likeliest", step + 1, training.steps, likeliest)
    return model.eval(), tokenizer, taken


def _is_learned(recent: Sequence[float], training: Training) -> bool:
    return len(recent) == LESSON_BATCHES and sum(recent) / len(recent) >= training.lesson_right


def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> float:
    """Share of items whose gold choice is the likeliest of the four."""
    return right(model, tokenizer, items).mean().item()


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
    """Whether the cues work both ways, so that there is something to find, and what must be kept is there."""
    return (
        figures["preferred"] >= MIN_PREFERRED
        and figures["dispreferred"] <= MAX_DISPREFERRED
        and figures["skills"] >= MIN_SKILLS
        and figures.get("closed_book", 1.0) >= MIN_CLOSED_BOOK
    )


def write_jsonl(folder: Path, data: dict[str, list[Item]]) -> None:
    """Write one `NAME.jsonl` per entry."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in data.items():
        lines = [json.dumps(item) + "\n" for item in items]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def train_to_folder(
    kind: str, seed: int, output: Path, training: Training | None = None, attempts: int = 3
) -> dict[str, float]:
    """Train until the gates are passed, checked on the weights as saved, and write the folder.

    Args:
        kind: The world's kind.
        seed: Draws the world, and the weights and documents of the first attempt.
        output: A new folder.
        training: Sizes; default those of the kind.
        attempts: Models at most; the last one is kept, whatever it is, and the record says so.

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
    discarded: list[dict[str, float]] = []
    while True:
        model, tokenizer, lesson = train(world, training, seed + ANOTHER_DRAW * len(discarded))
        model.half().save_pretrained(output)
        figures = gates(LlamaForCausalLM.from_pretrained(output, dtype=torch.float32).eval(), tokenizer, world)
        log.info("accuracy by cue: %s", json.dumps(figures))
        log.info("gates %s", "passed" if passed(figures) else "MISSED: do not use these weights")
        if passed(figures) or len(discarded) + 1 == attempts:
            break
        discarded.append(figures)
    seconds = time.process_time() - started
    tokenizer.save_pretrained(output)
    written = output / "tokenizer_config.json"  # transformers 5 writes a class name that 4.57 does not know
    text = written.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast")
    written.write_text(text, encoding="utf-8")
    record = {"world": kind, "seed": seed, "gate_passed": passed(figures), "accuracy": figures}
    record |= {"lesson_steps": lesson, "discarded": discarded, "training": asdict(training)}
    record |= {"cpu_seconds": round(seconds), "torch": torch.__version__}
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_jsonl(output / "tasks", task_data(world))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 when no model passed its gates."""
    parser = argparse.ArgumentParser(description="Train the model of a demo text world.")
    parser.add_argument("--world", choices=sorted(KINDS), required=True)
    parser.add_argument("--seed", type=int, default=0, help="draws the world, the weights and the documents")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--attempts", type=int, default=3, help="models at most, until one passes its gates")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        figures = train_to_folder(options.world, options.seed, options.output, attempts=options.attempts)
    except GrainsError as error:
        parser.error(str(error))
    return 0 if passed(figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
