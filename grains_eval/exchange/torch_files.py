"""Files of `torch.save` that hold plain tensors and nothing that would be executed on reading."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from grains_eval.errors import GrainsError, first_line


def is_torch_file(file: Path) -> bool:
    """Whether a name ends as files of `torch.save` do."""
    return file.suffix in (".pt", ".pth")


def read_tensors(file: Path) -> Any:
    """What a file holds, read with `weights_only=True`: tensors, numbers, strings and containers of them.

    Raises:
        GrainsError: it is damaged, or would need code to be executed.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise GrainsError(
            f"'{file}' holds Python objects, which are never unpickled; save a dict of plain tensors with torch.save"
        ) from error
    except Exception as error:  # torch raises whatever a wrong length leads to
        raise GrainsError(f"'{file}' is not a readable file of torch.save: {first_line(error)}") from error
