"""The card of an artifact folder: what it is, how it was made, how to load it, what it was measured to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

# statistics that each side has, as the card's columns; the config file holds all of them
_SIDED = {"agreement": "agreement", "explained_variance": "explained", "mean_delta_cosine": "cosine"}


def write_card(config: Mapping[str, Any], name: str) -> str:
    """Render the card of an `ArtifactConfig` as Markdown with a YAML header."""
    origin: Mapping[str, Any] = config["provenance"]
    header = {"library_name": "grains-eval", "tags": ["steering", config["method"], "lm-eval"]}
    if origin.get("base_model"):
        header["base_model"] = origin["base_model"]
    parts = [f"---\n{yaml.safe_dump(header, sort_keys=False)}---", f"# {name}", *_description(config)]
    model = f"pretrained={origin.get('base_model') or 'MODEL'},dtype={origin.get('dtype') or 'auto'}"
    parts.append(f"```\nlm_eval --model grains_hf --tasks TASK --model_args {model},vectors=<this folder>\n```")
    if config["layers"]:
        parts.extend([_setting(config["recommended"], origin.get("chosen_by")), "\n".join(_statistics(config))])
    hashes = origin.get("doc_hashes")
    if hashes:
        use = "used to choose the setting" if origin.get("chosen_by") else "set aside"
        parts.append(
            f"Built on {len(hashes.get('build', ()))} documents; {len(hashes.get('development', ()))} more were {use}. "
            "Their hashes are in `steering_config.json`, and comparisons leave them out."
        )
    versions = ", ".join(f"{package} {version}" for package, version in origin.get("versions", {}).items())
    parts.append(f"Seed {origin.get('seed', 'unknown')}; {versions}.")
    return "\n\n".join(parts) + "\n"


def _description(config: Mapping[str, Any]) -> Iterator[str]:
    origin: Mapping[str, Any] = config["provenance"]
    base = f"`{origin['base_model']}`" if origin.get("base_model") else "an unnamed model"
    source = f" of `{origin['source']}`" if origin.get("source") else ""
    examples = f"{origin.get('examples', 'an unknown number of')} preference examples{source}"
    if config["instruction"] is not None:
        yield "A prompting baseline: this instruction is put in front of every prompt."
        yield f"> {config['instruction']}"
    elif config["layers"]:
        yield (
            f"Steering vectors for {base}, made with `{config['method']}` from {examples}: directions of "
            f"{len(config['layers'])} blocks, {config['hidden_size']} wide, at the site `{config['site']}`."
        )
    else:
        yield f"A LoRA adapter for {base} (`adapter/`, readable by peft), trained on {examples}."


def _setting(recommended: Mapping[str, Any], chosen_by: str | None) -> str:
    layers = recommended["layers"]
    blocks = "all blocks" if layers is None else f"block{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    return (
        f"Recommended: {blocks}, strength {recommended['strength']} ({recommended['unit']}), operator "
        f"`{recommended['operator']}`, positions `{recommended['positions']}`"
        f"{f'; chosen {chosen_by}' if chosen_by else ''}."
    )


def _statistics(config: Mapping[str, Any]) -> Iterator[str]:
    """One row per block; `m_l` is the median token norm."""
    statistics: Mapping[int, Mapping[str, float | None]] = config["statistics"]
    found = {column for row in statistics.values() for column in row}
    sides = [name for name in _SIDED if f"positive.{name}" in found]
    others = sorted(name for name in found if "." not in name)
    heads = ["block", "m_l", *(f"{_SIDED[name]} +/−" for name in sides), *others]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for layer in config["layers"]:
        row = statistics.get(layer, {})
        pairs = [f"{_number(row.get(f'positive.{n}'))} / {_number(row.get(f'negative.{n}'))}" for n in sides]
        values = [_number(config["scales"].get(layer)), *pairs, *(_number(row.get(name)) for name in others)]
        yield f"| {layer} | {' | '.join(values)} |"


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}"
