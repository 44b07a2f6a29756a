"""What works with every decoder family that transformers can build at toy size, and why the rest does not.

    python -m benchmarks.families --kind text --output benchmarks/results/families_text.json

One row a family: its toy model is made from its configuration class, and the checks of `tests/families` compare what
`grains_hf` and a build give with plain `hf`, with hooks written in the test and with passes without a cache. A number
that differs is printed as `WRONG` and ends the command with exit code 1.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from benchmarks import common
from tests.families import checks
from tests.families.configurations import Family, Kind, families

SMOKE = ("llama", "phi3, longrope", "mamba", "t5", "bart", "llava")


def row(family: Family, found: Mapping[str, checks.Outcome]) -> dict[str, Any]:
    """A line of the table: what works, and in the last column what is refused or cannot be checked."""
    notes = dict[str, None]()
    cells = {name: cell(outcome, notes) for name, outcome in found.items()}
    return {"family": family.name, **cells, "notes": "; ".join(notes)}


def cell(outcome: checks.Outcome, notes: dict[str, None]) -> str:
    """One word, or the path that was taken; reasons go to the notes."""
    word = {"same": "yes", "refused": "refused", "absent": "–", "wrong": "WRONG"}[outcome.state]
    path, *rest = outcome.detail.split("; ")
    if path in ("plain", "shared", "shared_context"):
        notes.update(dict.fromkeys(rest))
        return f"yes, {path.partition('_')[0]}"
    notes.update(dict.fromkeys([path, *rest] if path else []))
    if outcome.state == "same" and outcome.detail.startswith("refused: "):
        return "in part"
    return word


def examined(kind: Kind, only: Sequence[str] = (), known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Rows of every family of a kind; where `only` names some, the others keep their `known` rows."""
    before = {each["family"]: each for each in known}
    rows = []
    for family in families(kind):
        if only and family.name not in only:
            rows += [before[family.name]] if family.name in before else []
            continue
        rows.append(row(family, checks.examined(family)))
        print(" | ".join(map(str, rows[-1].values())), flush=True)
    return rows


def main() -> None:
    """Check every family of a kind."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=get_args(Kind), default="text")
    parser.add_argument("--only", nargs="+", default=[], help="check these; others stay as in --output")
    arguments = parser.parse_args()
    common.start(arguments)
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    old = arguments.output
    known = json.loads(old.read_text())["rows"] if arguments.only and old is not None and old.is_file() else []
    rows = examined(arguments.kind, SMOKE if arguments.smoke else arguments.only, known)
    wrong = [each["family"] for each in rows if "WRONG" in each.values()]
    if arguments.only:
        sys.argv[1:] = ["--kind", arguments.kind]  # what makes the whole table
    common.report("families", rows, arguments)
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
