"""The tasks on local copies of their data, and a tiny classifier."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from grains_eval.task_support import toxicity
from grains_eval.tasks_path import task_directory
from tests import localdata, tiny


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return localdata.write(
        tmp_path_factory.mktemp("data"), "toxigen", "faitheval", "spa_vl", "mmhal_bench", "truthfulqa"
    )


@pytest.fixture
def local_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAINS_EVAL_DATA", str(data))
    return data


def index_of(manager: TaskManager) -> Any:
    """Entries of all tasks by name; `task_index` in lm_eval 0.4, private in 0.5."""
    return getattr(manager, "task_index", None) or vars(manager)["_index"]


@pytest.fixture(scope="session")
def manager() -> TaskManager:
    """Our tasks alone: indexing the harness's thousands takes ten seconds."""
    return TaskManager(include_path=str(task_directory()), include_defaults=False)


@pytest.fixture
def task(manager: TaskManager, local_data: Path) -> Callable[[str], ConfigurableTask]:
    return lambda name: manager.load(name)["tasks"][name]  # type: ignore[return-value]


@pytest.fixture
def tiny_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A sequence classifier whose toxic class is the first one."""
    folder = tmp_path / "classifier"
    config = hf.RobertaConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
        pad_token_id=0,
        id2label={0: "toxic", 1: "non-toxic"},
    )
    model: Any = hf.RobertaForSequenceClassification(config)
    with torch.random.fork_rng():
        tiny.save(model, tiny.tokenizer(), folder)
    monkeypatch.setenv("GRAINS_EVAL_TOXICITY_CLASSIFIER", str(folder))
    toxicity._load.cache_clear()
    yield folder
    toxicity._load.cache_clear()
