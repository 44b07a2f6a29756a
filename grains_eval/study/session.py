"""What the steps of a study share: the model, loaded once so that all of them score alike, and where results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from grains_eval.errors import GrainsError
from grains_eval.harness.applied_artifacts import STEERING_ARGUMENTS, AppliedMixin
from grains_eval.harness.model import GrainsHF, SteeringMixin
from grains_eval.models import LoadedModel
from grains_eval.progress import Progress, silent
from grains_eval.study.backends import PLAIN, Backend, load_engine


@dataclass(frozen=True)
class Session:
    """The model of a study, the user's own tasks, and how the study shows what it does.

    Attributes:
        model_args: lm-eval's model arguments.
        include_path: Folders with the user's own tasks.
        console: A rich console to print tables to; None prints nothing.
        progress: Wraps loops and shows their progress.
        lm: The unsteered model as lm-eval holds it, once it is loaded.
        backend: What evaluates, and scores the settings that are chosen among.
        engine: The backend's engine once it is started; None where the model scores by itself.
    """

    model_args: Mapping[str, Any]
    include_path: Sequence[str] = ()
    console: Any = None
    progress: Progress = silent
    lm: SteeringMixin | None = None
    backend: Backend = PLAIN
    engine: AppliedMixin | None = None

    def opened(self) -> Session:
        """The same with the model loaded and the backend's engine started.

        Raises:
            GrainsError: see `load_plain` and `load_engine`.
        """
        lm = self.lm if self.lm is not None else load_plain(self.model_args)
        engine = self.engine if self.engine is not None else load_engine(self.model_args, self.backend)
        return replace(self, lm=lm, engine=engine)

    @property
    def loaded(self) -> LoadedModel:
        """The model of an opened session."""
        assert self.lm is not None
        return replace(LoadedModel.of(self.lm), engine=self.engine)


@dataclass(frozen=True)
class OutputFolder:
    """Where results go, and what happens to those already there.

    Attributes:
        path: The folder.
        overwrite: Replace what is there.
        resume: Take up a finished comparison, with a further method for instance: only its report is replaced.
    """

    path: Path
    overwrite: bool = False
    resume: bool = False


def load_lm(model_args: Mapping[str, Any]) -> SteeringMixin:
    """The model as lm-eval holds it, ready to be steered by one artifact after another."""
    device = {} if "device" in model_args else {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    # half-precision log-softmax sums are off by .1 to .3 nats, more than many a paired difference
    return GrainsHF.create_from_arg_obj({"softmax_dtype": "float32", **model_args, **device})


def load_plain(model_args: Mapping[str, Any]) -> SteeringMixin:
    """The unsteered model, to build on.

    Raises:
        GrainsError: see `check_plain` and `GrainsHF`.
    """
    check_plain(model_args)
    return load_lm(model_args)


def check_plain(model_args: Mapping[str, Any]) -> None:
    """Refuse arguments that would steer the model of a build.

    Raises:
        GrainsError: there are some.
    """
    steering = [name for name in STEERING_ARGUMENTS if name != "plugins" and model_args.get(name) is not None]
    if steering:
        raise GrainsError(f"unknown model argument '{steering[0]}' of a build: it starts from the unsteered model")
