"""The card of an artifact folder: what it is, how it was made, how to load it, what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

_CARD = """\
---
library_name: grains-eval
{% if base_model %}base_model: {{ base_model }}
{% endif -%}
tags: [steering, {{ method }}, lm-eval]
---

# {{ name }}

{% if kind == "vectors" -%}
Steering vectors for `{{ base_model or "an unnamed model" }}`, made with `{{ method }}` from {{ examples }} preference
examples of `{{ source or "an unnamed source" }}`. Directions of {{ layers|length }} blocks, {{ hidden_size }} wide, site `{{ site }}`.
{%- elif kind == "adapter" -%}
A LoRA adapter (`adapter/`, readable by peft) for `{{ base_model }}`, trained on {{ examples }} preference examples.
{%- else -%}
A prompting baseline: the instruction below is put in front of every prompt.

> {{ instruction }}
{%- endif %}

```
lm_eval --model grains_hf --model_args pretrained={{ base_model or "MODEL" }},vectors={{ name }} --tasks TASK
```
{% if kind == "vectors" %}
Recommended: layers {{ recommended.layers if recommended.layers is not none else "all" }}, strength \
{{ recommended.strength }} ({{ recommended.unit }}), operator `{{ recommended.operator }}`, positions `{{ recommended.positions }}`.
{% if chosen_by %}Chosen {{ chosen_by }}.
{% endif %}
{% if statistics %}
| block | median token norm | {{ columns|join(" | ") }} |
|---|---|{{ "---|" * columns|length }}
{% for layer in layers -%}
| {{ layer }} | {{ "%.3g"|format(scales[layer]) }} | \
{% for column in columns %}{{ number(statistics[layer].get(column)) }} | {% endfor %}
{% endfor %}
{%- endif %}{% endif %}
{% if doc_hashes %}
Built on {{ doc_hashes.build|length }} documents and tuned on {{ doc_hashes.development|length }}; their hashes are in
`steering_config.json`, and comparisons leave them out.
{% endif %}
Seed {{ seed }}; {% for package, version in versions.items() %}{{ package }} {{ version }}{{ ", " if not loop.last }}{% endfor %}.
"""


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}"


def write_card(config: Mapping[str, Any], name: str) -> str:
    """Render the card of an `ArtifactConfig` as Markdown with a YAML header."""
    provenance: Mapping[str, Any] = config["provenance"]
    statistics: Mapping[int, Mapping[str, Any]] = config["statistics"]
    columns = sorted({column for row in statistics.values() for column in row})
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    kind = "prompt" if config["instruction"] is not None else "vectors" if config["layers"] else "adapter"
    return environment.from_string(_CARD).render(
        config,
        name=name,
        kind=kind,
        columns=columns,
        number=_number,
        base_model=provenance.get("base_model"),
        source=provenance.get("source"),
        examples=provenance.get("examples", "an unknown number of"),
        doc_hashes=provenance.get("doc_hashes"),
        chosen_by=provenance.get("chosen_by"),
        seed=provenance.get("seed", "unknown"),
        versions=provenance.get("versions", {}),
    )
