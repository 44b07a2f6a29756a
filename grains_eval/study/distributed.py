"""Builds over several processes (`torchrun`, `accelerate launch`): attribution is split, process 0 does the rest.

Attribution is nearly all of a build's work and examples are independent, so every process scores its share into the
build's folder of scores, and process 0 goes on from there as a resumed build would. Results are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from accelerate import PartialState

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        rank: From 0.
        count: 1 where nothing is distributed.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items: every `count`th, so that long ones spread."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Wait until every process has got here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


def processes() -> Processes:
    """The processes that a launcher started, joined if the model's loading has not done so."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    state = PartialState()
    return Processes(state.process_index, state.num_processes)


def is_first_process() -> bool:
    """Whether this process prints; asks the launcher only, so it is cheap."""
    return int(os.environ.get("RANK", "0")) == 0
