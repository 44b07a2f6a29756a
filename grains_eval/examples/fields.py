"""Values of a document that a task or a recipe names by field or template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grains_eval.errors import unknown
from grains_eval.lm_eval_versions import apply_template


def field(row: Mapping[str, Any], name: str) -> Any:
    """A field's value, or a Jinja template rendered over the row.

    Raises:
        GrainsError: neither.
    """
    if name in row:
        return row[name]
    if "{{" in name or "{%" in name:
        return apply_template(name, dict(row))
    raise unknown(name, row, "field of the data")
