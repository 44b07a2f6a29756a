"""Writes the logs in `inspect/` with `inspect_ai` itself and its mock model.

`pip install inspect_ai==0.3.285`, then `python tests/comparison/logs/make_inspect_logs.py`. Two models answer three
tasks: one scored right or wrong, one of several choices in two epochs with clusters, and one whose scorer gives several
numbers. A fourth task leaves a sample without a score. One log is JSON, the others are `.eval` files.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_ai import Task, eval, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, Target, accuracy, choice, match, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate, multiple_choice, system_message
from make_inspect_rule import knows  # beside this file

SIZE = 16
RULE = "make_inspect_rule.py"


@task
def capitals() -> Task:
    samples = [
        Sample(id=f"town-{i}", input=[ChatMessageUser(content=f"What is the capital of land {i}?")], target=f"city {i}",
               metadata={"continent": f"c{i % 6}"})
        for i in range(SIZE)
    ]  # fmt: skip
    solver = [system_message("Answer with the name alone."), generate()]
    return Task(MemoryDataset(samples, name="capitals"), solver=solver, scorer=match(location="exact"), version=2)


@task
def colours() -> Task:
    samples = [
        Sample(input=f"Which colour has flag {i}?", choices=["red", "green", "blue"], target="ABC"[i % 3],
               metadata={"family": i // 2})
        for i in range(SIZE)
    ]  # fmt: skip
    clustered = stderr(cluster="family")
    return Task(
        MemoryDataset(samples, name="colours"),
        solver=multiple_choice(),
        scorer=choice(),
        metrics=[accuracy(), clustered],
        epochs=2,
    )


@scorer(metrics={"length": [mean()], "polite": [accuracy()]})
def manners():
    async def score(state: TaskState, target: Target) -> Score:
        text = state.output.completion
        return Score(value={"length": len(text), "polite": "C" if "please" in text else "I"})

    return score


@task
def letters() -> Task:
    samples = [Sample(input=f"Write letter {i}.", target="please") for i in range(SIZE)]
    return Task(MemoryDataset(samples, name="letters"), solver=generate(), scorer=manners())


@scorer(metrics=[accuracy(), stderr()])
def fragile():
    async def score(state: TaskState, target: Target) -> Score:
        return Score.unscored(reason="the judge did not answer") if state.sample_id == 3 else Score(value="C")

    return score


@task
def gaps() -> Task:
    samples = [Sample(input=f"Name letter {i}.", target="yes") for i in range(4)]
    return Task(MemoryDataset(samples, name="gaps"), solver=generate(), scorer=fragile())


def answers(model: str):
    """What a mock model says, from the number in the question."""
    asked: dict[str, int] = {}

    def answer(messages, tools, tool_choice, config) -> ModelOutput:
        text = messages[-1].text
        index = int("".join(c for c in text.split("?")[0].split("letter")[-1].split("\n")[-1] if c.isdigit()) or 0)
        asked[text] = asked.get(text, -1) + 1
        right = knows(model, index, asked[text])
        if "capital" in text:
            said = f"city {index}" if right else "nowhere"
        elif "colour" in text:
            said = f"ANSWER: {'ABC'[(index + (not right)) % 3]}"
        else:
            said = f"{'please ' if right else ''}{'x' * (index + right)}"
        output = ModelOutput.from_content(f"mockllm/{model}", said)
        output.usage = ModelUsage(input_tokens=1, output_tokens=1)  # counting them would fetch a tokenizer
        return output

    return answer


def log(made: Task, model: str, form: str, place: Path) -> None:
    mock = get_model(f"mockllm/{model}", custom_outputs=answers(model), memoize=False)
    with tempfile.TemporaryDirectory() as folder:
        eval(made, model=mock, log_dir=folder, log_format=form, display="none", temperature=0.0,
             max_connections=1, max_samples=1, log_model_api=False)  # fmt: skip
        (file,) = Path(folder).iterdir()
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / file.name)


def write(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    for model in ("baseline", "steered"):
        for made in (capitals, colours, letters):
            log(made(), model, "json" if (model, made) == ("steered", capitals) else "eval", home / model)
        log(gaps(), model, "eval", home / f"{model}_gaps")


if __name__ == "__main__":
    script = Path(__file__).resolve()
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:  # a log names its task's file and the commit that is checked out: from a folder of its own it names neither
        with tempfile.TemporaryDirectory() as outside:
            shutil.copy(script, Path(outside, "tasks.py"))
            shutil.copy(script.with_name(RULE), outside)
            subprocess.run([sys.executable, "tasks.py", script.parent / "inspect"], cwd=outside, check=True)
