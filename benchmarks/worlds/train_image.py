"""Train the image world's model from nothing: about three minutes on one core.

    python -m benchmarks.worlds.train_image --seed 0 --output DIR

Deterministic on one machine with one thread. The weights are written only if the model passes its gates: it
sees, it is blind without its image, and cues in words and images turn its answers. Beside the model the
folder holds what was measured (`training.json`) and the world's task data (`tasks/*.jsonl`).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from benchmarks.worlds.image_documents import Document, image_document, text_document
from benchmarks.worlds.image_model import (
    BOS,
    EOS,
    IMAGE,
    PAD,
    Source,
    accuracy,
    choice_log_probs,
    make_model,
    make_processor,
    pixel_values,
    prompt_ids,
    save,
)
from benchmarks.worlds.image_world import (
    VOCABULARIES,
    ImageWorld,
    Item,
    conflict_items,
    make_world,
    sight_items,
    text_items,
    write_items,
)
from grains_eval.demo.scenes import BACKGROUND
from grains_eval.errors import GrainsError

log = logging.getLogger(__name__)

IMAGE_BATCH, TEXT_BATCH = 64, 16
LEARNING_RATE, WARM_UP, FINAL_RATE = 2e-3, 60, 0.03
LOOKING_SHARE = 0.2  # of the steps, the first, which are nearly all about the image alone
EARLY_SIGHT, LATE_SIGHT = 0.9, 0.3
PROMPT_WEIGHT = 0.05  # loss weight of prompt words beside 1 for the answer
VISUAL_NORM, NORM_WEIGHT = 1.5, 0.02  # keeps projected visual tokens near the words' norm


def train(world: ImageWorld, layers: int, steps: int) -> LlavaForConditionalGeneration:
    """Train on documents drawn from the world; `world.seed` seeds everything."""
    torch.manual_seed(world.seed)
    rng = Random(f"documents {world.seed}")
    model = make_model(len(world.words), layers)
    model.train()
    model.set_attn_implementation("eager")  # faster than the fused kernel on forty tokens
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    log.info("%d parameters", sum(weight.numel() for weight in model.parameters()))
    for step in range(steps):
        decay = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * decay
        sight = EARLY_SIGHT if step < LOOKING_SHARE * steps else LATE_SIGHT
        pictured = _loss(model, world, [image_document(world, rng, sight) for _ in range(IMAGE_BATCH)], rng)
        written = _loss(model, world, [text_document(world, rng) for _ in range(TEXT_BATCH)], rng)
        (0.75 * pictured).backward()
        (0.25 * written).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            spent = time.process_time()
            log.info("step %d image %.3f text %.3f cpu %.0f s", step + 1, pictured.item(), written.item(), spent)
    model.set_attn_implementation("sdpa")
    return model.eval()


def _loss(model: LlavaForConditionalGeneration, world: ImageWorld, documents: list[Document], rng: Random) -> Tensor:
    """Answer loss, a little prompt loss, and the penalty on visual norms."""
    index = {word: number for number, word in enumerate(world.words)}
    pictured = documents[0].scene is not None
    rows = [[*prompt_ids(world, prompt, pictured), index[answer], EOS] for prompt, answer, _ in documents]
    length = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    scenes = [(document.scene or (), rng.randrange(1 << 30)) for document in documents]
    pixels = pixel_values(scenes, world.background) if pictured else None
    output = model(input_ids=ids, pixel_values=pixels)  # padding is on the right, behind every scored token
    targets = ids[:, 1:]
    weights = torch.isin(targets, torch.tensor([PAD, BOS, IMAGE]), invert=True).float() * PROMPT_WEIGHT
    answers = torch.tensor([len(row) - 3 for row in rows])
    weights[torch.arange(len(rows)), answers] = 1.0
    logits = output.logits[:, :-1].flatten(0, 1)
    losses = cross_entropy(logits, targets.flatten(), reduction="none").view_as(weights)
    loss = (losses * weights).sum() / weights.sum()
    if pictured:
        loss = loss + NORM_WEIGHT * (output.image_hidden_states.norm(dim=-1) - VISUAL_NORM).square().mean()
    return loss


def measure(world: ImageWorld, model: LlavaForConditionalGeneration) -> dict[str, float]:
    """Accuracies of the gates, on items of the task's own kind."""
    processor = make_processor(world.words)
    sight, text = sight_items(world, 32), text_items(world)
    figures = {f"sight_{kind}": 0.0 for kind in ("thing", "colour", "side")}

    def measured(asked: Sequence[Item], source: Source = "own") -> float:
        return accuracy(choice_log_probs(model, processor, asked, source, world.background), asked)

    for kind in ("thing", "colour", "side"):
        figures[f"sight_{kind}"] = measured([item for item in sight if item["id"].startswith(kind)])
    figures["sight_blank"], figures["sight_swapped"] = measured(sight, "blank"), measured(sight, "swapped")
    for name in ("successor", "usual"):
        figures[name] = measured([item for item in text if item["id"].startswith(name)])
    for name, (spoken, stamps) in CUED.items():
        figures[name] = measured(conflict_items(world, "test", 2, spoken, stamps))
    return {name: round(value, 4) for name, value in figures.items()}


CUED: dict[str, tuple[list[str], list[str]]] = {  # kinds of words, kinds of stamps
    "rooms": ([], []),
    "rooms_truth_word": (["truth"], []),
    "rooms_truth_stamp": ([], ["truth"]),
    "rooms_truth_both": (["truth"], ["truth"]),
    "rooms_myth_word": (["myth"], []),
    "rooms_myth_stamp": ([], ["myth"]),
    "rooms_myth_both": (["myth"], ["myth"]),
}
GATES: dict[str, tuple[float, float]] = {  # lowest and highest accuracy
    "sight_thing": (0.9, 1.0),
    "sight_colour": (0.9, 1.0),
    "sight_side": (0.9, 1.0),
    "sight_blank": (0.0, 0.45),  # chance is a third: a half for sides, a quarter else
    "sight_swapped": (0.0, 0.45),
    "successor": (0.95, 1.0),
    "usual": (0.95, 1.0),
    "rooms": (0.2, 0.4),
    "rooms_truth_both": (0.9, 1.0),
    "rooms_myth_both": (0.0, 0.1),
}


def failed_gates(figures: dict[str, float]) -> list[str]:
    """The gates that a model misses, as text."""
    missed = {name: span for name, span in GATES.items() if not span[0] <= figures[name] <= span[1]}
    return [f"{name} {figures[name]:.3f} not in {low}..{high}" for name, (low, high) in missed.items()]


def train_to_folder(
    vocabulary: str,
    seed: int,
    output: Path,
    *,
    layers: int = 4,
    steps: int = 1000,
    background: int = BACKGROUND,
    keep_failures: bool = False,
) -> dict[str, float]:
    """Draw a world, train on it, measure the gates and write model, processor, figures and task data.

    Args:
        vocabulary: Words of usual answers, a name in `VOCABULARIES`.
        seed: Draws the world, the weights and the documents.
        output: A folder that does not exist yet.
        layers: Decoder layers.
        steps: Optimizer steps.
        background: Grey level of the images, 0 to 255.
        keep_failures: Write a model that misses a gate too.

    Raises:
        GrainsError: the folder exists, a level outside 0 to 255, or a gate is missed; nothing is written.
    """
    if output.exists():
        raise GrainsError(f"output '{output}' exists; give a new folder")
    if not 0 <= background <= 255:
        raise GrainsError(f"background {background} is no grey level; give one from 0 (black) to 255 (white)")
    world = make_world(vocabulary, seed, background)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products where the processor has them
    try:
        model = train(world, layers, steps)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    model.half().float()  # measure the weights that are written
    figures = measure(world, model)
    log.info("%s", json.dumps(figures, indent=2))
    failures = failed_gates(figures)
    if failures and not keep_failures:
        raise GrainsError(f"gates missed: {'; '.join(failures)}; nothing written; train longer")
    save(model, make_processor(world.words), output)
    provenance = {
        "seed": seed,
        "vocabulary": world.vocabulary,
        "background": world.background,
        "layers": layers,
        "steps": steps,
        "accuracy": figures,
        "gates_missed": failures,
    }
    (output / "training.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    write_items(world, output / "tasks")
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the demo image model.")
    parser.add_argument("--seed", type=int, default=0, help="draws the world, the weights and the documents")
    parser.add_argument("--vocabulary", choices=sorted(VOCABULARIES), default="split", help="words of usual answers")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--background", type=int, default=BACKGROUND, help="grey level of the images, 0 to 255")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model; must not exist")
    parser.add_argument("--keep-failures", action="store_true", help="write even if a gate is missed")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train_to_folder(
            options.vocabulary,
            options.seed,
            options.output,
            layers=options.layers,
            steps=options.steps,
            background=options.background,
            keep_failures=options.keep_failures,
        )
    except GrainsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
