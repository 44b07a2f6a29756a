"""repeng's files (`ControlVector.export_gguf`, `import_gguf`): GGUF control vectors that may hold layer 0.

Layers are those of `ControlModel`, counted from 0; `controlvector.model_hint` must be there.
"""

from __future__ import annotations

from pathlib import Path

from grains_eval.exchange.gguf import read_gguf, write_gguf
from grains_eval.exchange.registry import FORMATS, Format


def _recognises(file: Path) -> bool:
    """Nothing: without a mark of their own, files of repeng are read as those of llama.cpp."""
    del file
    return False


FORMATS.add(
    "repeng",
    Format(
        "repeng's ControlVector",
        ".repeng.gguf",
        write_gguf,
        read_gguf,
        _recognises,
        use='repeng.ControlVector.import_gguf("FILE")',
        renormalise="set_control(vector, 1.0, normalize=True) restores lengths",
    ),
    __name__,
)
