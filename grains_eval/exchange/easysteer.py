"""EasySteer's files: GGUF control vectors with the method and, as JSON, the site that the vectors act on.

`controlvector.easysteer` is `{"version": 1, "component": "hidden_states", "metadata": ...}`; releases before it read
the vectors and the method alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grains_eval.errors import GrainsError, told
from grains_eval.exchange.gguf import fields_of, read_gguf, write_gguf
from grains_eval.exchange.portable import PortableVectors
from grains_eval.exchange.registry import FORMATS, Format

_NATIVE = "controlvector.easysteer"
_METHOD = "controlvector.method"
_COMPONENT = "hidden_states"


def _write(vectors: PortableVectors, file: Path) -> None:
    native = {"version": 1, "component": _COMPONENT, "metadata": {"mapping": []}}
    write_gguf(vectors, file, {_METHOD: vectors.method, _NATIVE: json.dumps(native)})


def _read(file: Path) -> PortableVectors:
    native = fields_of(file).get(_NATIVE)
    if native is not None:
        try:
            component: Any = json.loads(str(native)).get("component")
        except (ValueError, RecursionError, AttributeError) as error:
            raise GrainsError(f"'{file}': {_NATIVE} is not JSON; the file is damaged") from error
        if component not in (None, _COMPONENT):
            raise GrainsError(
                f"'{file}' holds vectors of {told(component)}; only those of {_COMPONENT} can be imported"
            )
    return read_gguf(file)


def _recognises(file: Path) -> bool:
    return bool({_NATIVE, _METHOD}.intersection(fields_of(file)))


FORMATS.add(
    "easysteer",
    Format(
        "EasySteer's vectors for vLLM",
        ".easysteer.gguf",
        _write,
        _read,
        _recognises,
        use='VectorSpec(source="FILE", algorithm="direct", scale=1.0)',
        renormalise="VectorSpec(…, normalize=True) restores lengths",
    ),
    __name__,
)
