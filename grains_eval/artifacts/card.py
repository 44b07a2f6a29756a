"""The card of an artifact folder: what it is, how it was made, how to load it, what it was measured to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

# statistics that each side has, as the card's columns; the config file holds all of them
_SIDED = {"agreement": "agreement", "explained_variance": "explained", "mean_delta_cosine": "cosine"}
# what a column says, by the statistic's name in the config file
_LEGEND = {
    "examples": "`examples`: number of deltas, each the difference of two hidden states of an example",
    "delta_norm": "`delta_norm`: length of the mean delta",
    "agreement": "`agreement`: mean cosine between the deltas of two examples (near 0 they share no direction)",
    "explained_variance": "`explained`: share of the deltas' squared length that lies along the direction",
    "mean_delta_cosine": "`cosine`: cosine between the direction and the mean delta",
    "share": "`share`: part of the whole direction's squared length that lies in this layer",
    "heads": "`heads`: attention heads of this layer that are steered",
    "probe_accuracy": "`probe_accuracy`: mean accuracy of these heads' probes on examples that were held out from them",
    "loss": "`loss`: mean of the training loss over the last epoch, nats (log 2, 0.693, before training)",
    "norm": "`norm`: length of the vector that was trained",
    "best_probe_accuracy": "`best_probe_accuracy`: that of the best of them",
}

_FIDELITY = {
    "comprehensiveness": "comprehensiveness: fall of the preference without the top tokens, nats; more is better",
    "sufficiency": "sufficiency: fall of the preference with the top tokens alone, nats; less is better",
    "leave_one_out": "rank correlation of the scores with leaving out one token at a time",
}


def write_card(config: Mapping[str, Any], name: str) -> str:
    """Render the card of an `ArtifactConfig` as Markdown with a YAML header."""
    origin: Mapping[str, Any] = config["provenance"]
    parts = [f"---\n{_metadata(config).to_yaml()}\n---", f"# {name}", *_description(config)]
    model = f"pretrained={origin.get('base_model') or 'MODEL'},dtype={origin.get('dtype') or 'auto'}"
    parts.append(f"```\nlm_eval --model grains_hf --tasks TASK --model_args {model},vectors=<this folder>\n```")
    if config.get("found_tokens"):
        parts.extend(_found(config))
    elif config["layers"]:
        parts.append(_setting(config["recommended"], origin.get("chosen_by")))
        parts.extend(["\n".join(_statistics(config)), _legend(config)])
    elif origin.get("chosen_by"):
        parts.append(f"Chosen: {origin['chosen_by']}.")
    parts.extend(_fidelity(origin.get("fidelity", {})))
    hashes = origin.get("doc_hashes")
    if hashes:
        use = "used to choose the setting" if origin.get("chosen_by") else "set aside"
        shots = f", and {len(hashes['shots'])} stood in prompts as few-shot examples" if hashes.get("shots") else ""
        parts.append(
            f"Built on {len(hashes.get('build', ()))} documents; {len(hashes.get('development', ()))} more were {use}"
            f"{shots}. Their hashes are in `steering_config.json`, and comparisons leave them out."
        )
    versions = ", ".join(f"{package} {version}" for package, version in origin.get("versions", {}).items())
    parts.append(f"Seed {origin.get('seed', 'unknown')}; {versions}.")
    return "\n\n".join(parts) + "\n"


def _metadata(config: Mapping[str, Any]) -> ModelCardData:
    """What the hub indexes: base model and how this one relates to it, task, tags."""
    origin: Mapping[str, Any] = config["provenance"]
    sees = origin.get("modality") == "vision-language"
    base = origin.get("base_model")
    return ModelCardData(
        library_name="grains-eval",
        tags=["steering", config["method"], "lm-eval"],
        base_model=base if base and _is_repository(base) else None,
        base_model_relation="adapter" if base and _is_repository(base) else None,
        pipeline_tag="image-text-to-text" if sees else "text-generation",
    )


def _is_repository(name: str) -> bool:
    """Whether a base model is named as on the hub; a local path is useless to readers of the card there."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _description(config: Mapping[str, Any]) -> Iterator[str]:
    origin: Mapping[str, Any] = config["provenance"]
    base = f"`{origin['base_model']}`" if origin.get("base_model") else "an unnamed model"
    source = f" of `{origin['source']}`" if origin.get("source") else ""
    examples = f"{origin.get('examples', 'an unknown number of')} preference examples{source}"
    if config["instruction"] is not None:
        yield "A prompting baseline: this instruction is put in front of every prompt."
        yield f"> {config['instruction']}"
    elif config.get("contrast"):
        contrast: Mapping[str, Any] = config["contrast"]
        yield (
            "Context-aware decoding: every prompt runs with and without its context `c`, and tokens come from the "
            "softmax of `(1 + alpha) logit(y | c, x) - alpha logit(y | x)`, "
            f"alpha {contrast['alpha']:.3g} (`strength=`)."
        )
        rows = [f"| `{task}` | `{key}` |" for task, key in contrast["contexts"].items()]
        yield "\n".join(["| task | its context |", "|---|---|", *rows])
    elif config.get("found_tokens"):
        yield (
            f"Found tokens for {base}, made with `{config['method']}` from {examples}: keys and values of "
            f"{len(config['layers'])} layers, as the model itself computed them, which it then sees as one more token "
            "at a fixed distance."
        )
    elif config["layers"]:
        imported: Mapping[str, Any] = origin.get("imported") or {}
        made = f"made with `{config['method']}` from {examples}"
        if imported and not origin.get("examples"):
            made = f"imported from `{imported['file']}` ({imported['format']}), which does not say how it was made"
        yield (
            f"Steering vectors for {base}, {made}: directions of "
            f"{len(config['layers'])} layers, {config['hidden_size']} wide, at the site `{config['site']}`."
        )
    else:
        yield f"A LoRA adapter for {base} (`adapter/`, readable by peft), trained on {examples}."


def _found(config: Mapping[str, Any]) -> Iterator[str]:
    """Setting, words and evidence of found tokens."""
    setting: Mapping[str, Any] = config["recommended"]
    layers = setting["layers"]
    seen_by = "all layers" if layers is None else f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    sides: Mapping[str, list[Mapping[str, Any]]] = config["found_tokens"]
    far = sorted(one["distance"] for one in sides["positive"])
    found = f"{far[len(far) // 2]} tokens back, the upper median" if setting["tokens"] == 1 else f"{_span(far)} back"
    distance = (
        f"{found} of the distances found" if setting["distance"] is None else f"{setting['distance']} tokens back"
    )
    words = Counter(one["word"] for one in sides["positive"] if one["token_id"] >= 0)
    word = f"`{words.most_common(1)[0][0]}`" if words else "no word (they are parts of images)"
    yield (
        f"Recommended: form `{setting['form']}`, {seen_by}, strength {setting['strength']:g} (log of a multiplicity), "
        f"{setting['tokens']} virtual token{'s' * (setting['tokens'] > 1)}, {distance}. The most "
        f"frequent word found is {word}."
    )
    evidence: Mapping[str, Any] = config["provenance"].get("transfer", {})
    for side, name in (("positive", "favour the preferred response"), ("negative", "favour the other")):
        if sides.get(side):
            head = ["| word | found | positions | distances | largest t |", "|---|---|---|---|---|"]
            yield "\n".join([f"Tokens that {name}:", "", *head, *_words(sides[side])])
        if evidence.get(side):
            seen = evidence[side]
            yield (
                f"Of {seen['candidates']} candidates the best moved the preference of other examples with t "
                f"{_number(seen['largest_t'])} (p {seen['adjusted_p']:.2g}, adjusted for their number)"
                + (f"; {seen['harmful']} were left out for harming preserved items" if seen.get("harmful") else "")
                + (f"; {seen['reason']}" if seen.get("reason") else "")
                + "."
            )
    yield (
        "`form=text` puts the most frequent of these words into the prompt, `form=embedding` a soft token made of "
        "their embeddings; both stand that far from its end, after the first token at the earliest. positions: from "
        "the beginning of the prompt, from 0; distances: tokens to its end."
    )


def _words(origins: list[Mapping[str, Any]]) -> Iterator[str]:
    """One row per word, the most frequent first."""
    by_word: dict[str, list[Mapping[str, Any]]] = {}
    for one in origins:
        by_word.setdefault(one["word"], []).append(one)
    for word, found in sorted(by_word.items(), key=lambda item: (-len(item[1]), item[0])):
        largest = max((one["statistic"] for one in found if one["statistic"] is not None), default=None)
        shown = f"`{word}`" if word.strip() else "–"
        spans = [_span([one[key] for one in found]) for key in ("position", "distance")]
        yield f"| {shown} | {len(found)} | {' | '.join(spans)} | {_number(largest)} |"


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _setting(recommended: Mapping[str, Any], chosen_by: str | None) -> str:
    layers = recommended["layers"]
    steered = "all layers" if layers is None else f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    return (
        f"Recommended: {steered}, strength {recommended['strength']} ({recommended['unit']}), operator "
        f"`{recommended['operator']}`, positions `{recommended['positions']}`"
        f"{f'; chosen {chosen_by}' if chosen_by else ''}."
    )


def _statistics(config: Mapping[str, Any]) -> Iterator[str]:
    """One row per layer."""
    statistics: Mapping[int, Mapping[str, float | None]] = config["statistics"]
    sides, others = _columns(config)
    heads = ["layer", "m_l", *(f"{_SIDED[name]} +/−" for name in sides), *others]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for layer in config["layers"]:
        row = statistics.get(layer, {})
        pairs = [f"{_number(row.get(f'positive.{n}'))} / {_number(row.get(f'negative.{n}'))}" for n in sides]
        values = [_number(config["scales"].get(layer)), *pairs, *(_number(row.get(name)) for name in others)]
        yield f"| {layer} | {' | '.join(values)} |"


def _fidelity(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """What removing tokens says of the attributions, one table per modality."""
    for modality, measures in found.items():
        examples = next(iter(measures.values()))["examples"]
        lines = [
            f"Fidelity of the attributions, {modality} tokens of {examples} build examples:",
            "",
            "| measure | attribution | random ranking | difference (95 %) |",
            "|---|---|---|---|",
        ]
        for name, wording in _FIDELITY.items():
            row = measures[name]
            interval = f" ({_number(row['low'])} to {_number(row['high'])})" if row["low"] == row["low"] else ""
            shown = f"{_number(row['attributed'])} | {_number(row['random'])} | {_number(row['difference'])}{interval}"
            lines.append(f"| {wording} | {shown} |")
        yield "\n".join(lines)


def _columns(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Statistics with a value for each side, and those with one."""
    statistics: Mapping[int, Mapping[str, float | None]] = config["statistics"]
    found = {column for row in statistics.values() for column in row}
    return [name for name in _SIDED if f"positive.{name}" in found], sorted(name for name in found if "." not in name)


def _legend(config: Mapping[str, Any]) -> str:
    """What the columns of this table are."""
    sides, others = _columns(config)
    # a statistic of both sides has a shorter heading
    found = [_LEGEND[name].replace(f"`{_SIDED.get(name)}`", f"`{name}`") for name in others if name in _LEGEND]
    imported = config["provenance"].get("imported") and not config["provenance"].get("examples")
    norm = "length of the imported vector" if imported else "median token norm at the site"
    lines = [
        "`layer`: decoder layer, from 0",
        f"`m_l`: {norm}, the unit of a relative strength",
        *(_LEGEND[name] for name in sides),
        *found,
        "–: no value",
    ]
    if sides:
        lines.append(
            "+ and −: from masking tokens that favour the preferred response, and tokens that favour the other"
        )
    return "; ".join(lines) + "."


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}"
