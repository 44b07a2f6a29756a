"""Values as YAML and JSON hold them: read in one line or refused in one line."""

from __future__ import annotations

import json
from typing import Any

import yaml

from grains_eval.errors import GrainsError, told


def read_yaml(content: str | bytes) -> Any:
    """The value of a YAML document, UTF-8 where it is bytes.

    Raises:
        GrainsError: it is `not valid YAML: …`, which wants a subject in front.
    """
    try:
        return yaml.safe_load(content if isinstance(content, str) else content.decode())
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:  # a date of month 13 is a ValueError
        raise GrainsError(f"not valid YAML: {told(error, 300)}") from error
    except (LookupError, AttributeError, TypeError) as error:  # `!!bool x`, `!!timestamp x`, `!!int ""`
        raise GrainsError("not valid YAML: a value is not of the kind that its tag (!!) says") from error


def not_json(value: Any) -> str:
    """Why a value cannot be written as JSON in UTF-8; empty where it can."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return " ".join(str(error).split())
    return ""


def encodable(text: str) -> str:
    """The text with a question mark for halves of surrogate pairs, which a model may answer and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
