"""Logs that the tools themselves wrote (`make_inspect_logs.py`, `make_lmms_logs.py`)."""

from pathlib import Path

HOME = Path(__file__).parent
INSPECT = HOME / "inspect"
LMMS = HOME / "lmms"


def log_of(run: str, task: str) -> Path:
    (file,) = (INSPECT / run).glob(f"*_{task}_*")
    return file
