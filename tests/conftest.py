"""Fixtures shared by all tests: offline, one thread, tiny models built once a session."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from grains_eval.models import LoadedModel, load
from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def _small_machine() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        tiny.allow_missing_torchvision(patch.setattr)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_text("llama")` is the folder of that tiny text model, built on first use."""
    return _cached(tmp_path_factory, tiny.build_text)


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_vision("gemma3")` is the folder of that tiny vision-language model, built on first use."""
    return _cached(tmp_path_factory, tiny.build_vision)


@pytest.fixture(scope="session")
def loaded_text(tiny_text: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """The same, loaded on the CPU; shared by all tests, so leave it as it was."""
    return _loader(tiny_text)


@pytest.fixture(scope="session")
def loaded_vision(tiny_vision: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """The same, loaded on the CPU; shared by all tests, so leave it as it was."""
    return _loader(tiny_vision)


def _cached(factory: pytest.TempPathFactory, build: Callable[[str, Path], Path]) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = build(name, factory.mktemp(name))
        return folders[name]

    return get


def _loader(folder_of: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    models: dict[str, LoadedModel] = {}

    def get(name: str) -> LoadedModel:
        if name not in models:
            models[name] = load({"pretrained": str(folder_of(name)), "dtype": "float32"}, device="cpu")
        return models[name]

    return get
