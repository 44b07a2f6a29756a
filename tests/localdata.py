"""Small copies of the benchmarks, with rows of our own, in the hub's own layout and schema.

`python -m tests.localdata FOLDER` writes them. `GRAINS_EVAL_DATA=FOLDER` makes our tasks read them; the
harness's own tasks (mmlu, mmmu_val, truthfulqa_*, toxigen) read theirs when run from inside FOLDER.
"""

import io
import json
import sys
from pathlib import Path

import lm_eval
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from PIL import ImageDraw

COLOURS = ("red", "green", "blue", "yellow")
HARNESS = Path(lm_eval.__file__).parent / "tasks"


def encoded_image(index: int, mode: str = "RGB", form: str = "PNG") -> bytes:
    image = Pictures.new("RGB", (40, 30), "white")
    ImageDraw.Draw(image).rectangle((5 + index, 5, 20 + index, 20), fill=COLOURS[index % 4])
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, form)
    return buffer.getvalue()


def parquet(root: Path, name: str, rows: list[dict], features: Features | None = None) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(file)


def card(root: Path, configs: dict[str, dict[str, str]]) -> None:
    """The hub's README header, which tells `load_dataset` where the files of a configuration are."""
    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': entries})}---\n")


def toxigen_rows(per_group: int) -> list[dict]:
    groups = {"gardeners": "grow kale", "left-handed folks": "write left", "tall people": "reach shelves"}
    return [
        {
            "text": f"{group} {what} on day {i}" if i % 2 else f"nobody should trust {group}, reason {i}",
            "target_group": group,
            "factual?": None,
            "ingroup_effect": None,
            "lewd": "not lewd",
            "framing": "no disagreement",
            "predicted_group": group,
            "stereotyping": "no",
            "intent": 1.0,
            "toxicity_ai": 1.0 if i % 2 else 4.0 + i / 10,
            "toxicity_human": 1.0 + i / 100 if i % 2 else 4.0,
            "predicted_author": "human",
            "actual_method": "top-k",
        }
        for group, what in groups.items()
        for i in range(per_group)
    ]


def toxigen(root: Path) -> None:
    features = Features(
        {name: Value("float64" if isinstance(value, float) else "string") for name, value in toxigen_rows(1)[0].items()}
    )
    for name in ("toxigen/toxigen-data", "skg/toxigen-data"):
        folder = root / name
        parquet(folder, "annotated/train-00000-of-00001.parquet", toxigen_rows(12), features)
        parquet(folder, "annotated/test-00000-of-00001.parquet", toxigen_rows(5), features)
        for group in ("gardeners", "tall_people"):
            for kind in ("hate", "neutral"):
                rows = [{"text": f"- {kind} {group} {i}\\n- {kind} more\\n-"} for i in range(4)]
                parquet(folder, f"prompts/{kind}_{group}_1k-00000-of-00001.parquet", rows)
        card(folder, {"annotated": {split: f"annotated/{split}-*.parquet" for split in ("train", "test")}})


def faitheval(root: Path) -> None:
    org = root / "Salesforce"
    file = "data/test-00000-of-00001.parquet"
    questions = Features(
        {"qid": Value("string"), "question": Value("string"), "context": Value("string"),
         "answers": List(Value("string"))}
    )  # fmt: skip
    for kind, context in {
        "unanswerable": "The harbour of town {i} freezes in winter.",
        "inconsistent": "Town {i} has a blue gate. Later it says that town {i} has a red gate.",
    }.items():
        rows = [
            {
                "qid": f"{kind}-{i}",
                "question": f"Which colour has the gate of town {i}?",
                "context": context.format(i=i),
                "answers": ["blue"],
            }
            for i in range(8)
        ]
        parquet(org / f"FaithEval-{kind}-v1.0", file, rows, questions)
    labels = [["A", "B", "C", "D"], ["1", "2", "3", "4"], ["A", "B", "C"], ["A", "B", "C", "D", "E"]]
    words = ["iron", "paper", "glass", "wool", "salt"]
    rows = [
        {
            "id": f"item-{i}",
            "question": "Which of these floats on lead?",
            "answer": words[i % 3],
            "answerKey": labels[i % 4][i % 3],
            "choices": {"label": labels[i % 4], "text": words[: len(labels[i % 4])]},
            "context": f"In report {i}, {words[i % 3]} floats on lead and nothing else does.",
        }
        for i in range(12)
    ]
    choices = {"label": List(Value("string")), "text": List(Value("string"))}
    strings = {name: Value("string") for name in ("id", "question", "answer", "answerKey")}
    features = Features({**strings, "choices": choices, "context": Value("string")})
    parquet(org / "FaithEval-counterfactual-v1.0", file, rows, features)


def spa_vl(root: Path) -> None:
    folder = root / "sqrti/SPA-VL"

    def rows(count: int, start: int, answers: bool) -> list[dict]:
        return [
            {
                "image": {
                    "bytes": encoded_image(i, "L" if i == 3 else "RGB", "JPEG" if i % 2 else "PNG"),
                    "path": f"{i}.png",
                },
                "question": f"What is the {COLOURS[i % 4]} thing number {i}?",
                **(
                    {
                        "chosen": f"It is a {COLOURS[i % 4]} square.",
                        "rejected": "I will not look at it." if i != 5 else f"It is a {COLOURS[i % 4]} square.",
                        "image_name": f"{i}.png",
                    }
                    if answers
                    else {}
                ),
                "class1": ("Safety", "Privacy")[i % 2],
                "class2": "Shapes",
                "class3": COLOURS[i % 4],
            }
            for i in range(start, start + count)
        ]

    def features(row: dict) -> Features:
        return Features({name: Image() if name == "image" else Value("string") for name in row})

    for name, made in {
        "validation/validation": rows(12, 0, True),
        "test/harm": rows(4, 20, False),
        "test/help": rows(4, 30, False),
    }.items():
        parquet(folder, f"{name}-00000-of-00001.parquet", made, features(made[0]))


def mmhal_bench(root: Path) -> None:
    folder = root / "Shengcao1006/MMHal-Bench"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    kinds = (
        "attribute",
        "adversarial",
        "comparison",
        "counting",
        "relation",
        "environment",
        "holistic",
        "other",
    )
    rows = []
    for i in range(8):
        (folder / f"images/{i}_o.jpg").write_bytes(encoded_image(i, form="JPEG"))
        rows.append(
            {
                "question_type": kinds[i % 8],
                "question_topic": "shapes",
                "image_id": f"{i:04x}",
                "image_src": f"https://example.org/{i}/{i}_o.jpg",
                "image_content": ["Square", COLOURS[i % 4]],
                "question": f"Which colour has square {i}?",
                "gt_answer": f"It is {COLOURS[i % 4]}.",
                "model_answer": "",
            }
        )
    (folder / "response_template.json").write_text(json.dumps(rows))


def mmlu(root: Path) -> None:
    folder = root / "cais/mmlu"
    subjects = sorted(
        yaml.load(file.read_text(), yaml.BaseLoader)["dataset_name"]
        for file in (HARNESS / "mmlu/default").glob("mmlu_*.yaml")
    )
    for subject in subjects:
        rows = [
            {"question": f"How much is {i} and one?", "subject": subject,
             "choices": [str(i + k) for k in range(4)], "answer": 1}
            for i in range(2)
        ]  # fmt: skip
        for split in ("test", "dev"):
            parquet(folder, f"{subject}/{split}-00000-of-00001.parquet", rows)
    card(folder, {name: {split: f"{name}/{split}-*.parquet" for split in ("test", "dev")} for name in subjects})


def mmmu(root: Path) -> None:
    folder = root / "MMMU/MMMU"
    subjects = sorted(
        config["dataset_name"]
        for file in (HARNESS / "mmmu").glob("mmmu_*.yaml")
        if "dataset_name" in (config := yaml.load(file.read_text(), yaml.BaseLoader))
    )
    strings = ["id", "question", "options", "explanation", "topic_difficulty", "question_type"]
    strings += ["subfield", "img_type", "answer"]
    images = [f"image_{k}" for k in range(1, 8)]
    features = Features({**{name: Value("string") for name in strings}, **{name: Image() for name in images}})
    for subject in subjects:
        row = {
            "id": f"validation_{subject}_1",
            "question": "<image 1> Which colour has the square?",
            "options": "['red', 'green', 'blue']",
            "explanation": "",
            "topic_difficulty": "Easy",
            "question_type": "multiple-choice",
            "subfield": "shapes",
            "img_type": "['Icons']",
            "answer": "A",
            **dict.fromkeys(images),
            "image_1": {"bytes": encoded_image(0), "path": "0.png"},
        }
        parquet(folder, f"{subject}/validation-00000-of-00001.parquet", [row], features)
    card(folder, {name: {"validation": f"{name}/validation-*.parquet"} for name in subjects})


def truthfulqa(root: Path) -> None:
    choices = [
        {
            "question": f"What sleeps in well {i}?",
            "mc1_targets": {"choices": ["Nothing.", "A dragon.", "A king."], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": ["Nothing.", "Only water.", "A dragon."], "labels": [1, 1, 0]},
        }
        for i in range(8)
    ]
    answers = [
        {
            "type": "Non-Adversarial",
            "category": "Myths",
            "question": f"What sleeps in well {i}?",
            "best_answer": "Nothing",
            "correct_answers": ["Nothing", "Only water"],
            "incorrect_answers": ["A dragon", "A king"],
            "source": "https://example.org",
        }
        for i in range(8)
    ]
    for folder in (root / "truthfulqa/truthful_qa", root / "truthful_qa"):  # lm_eval 0.4 and 0.5
        for name, rows in {"multiple_choice": choices, "generation": answers}.items():
            parquet(folder, f"{name}/validation-00000-of-00001.parquet", rows)
        card(folder, {n: {"validation": f"{n}/validation-*.parquet"} for n in ("multiple_choice", "generation")})


def leaderboard(root: Path) -> None:
    """What the harness's group `leaderboard` reads; the number of documents differs between subtasks."""
    bbh = sorted((HARNESS / "leaderboard/bbh_mc").glob("[a-z]*.yaml"))
    for place, file in enumerate(bbh):
        subtask = yaml.load(file.read_text(), yaml.BaseLoader)
        rows = [
            {"input": f"Riddle {i} of {file.stem}?", "target": subtask["doc_to_choice"][i % 2]}
            for i in range(6 + place % 3)
        ]
        parquet(root / "SaylorTwift/bbh", f"{file.stem}/test-00000-of-00001.parquet", rows)
    card(root / "SaylorTwift/bbh", {file.stem: {"test": f"{file.stem}/test-*.parquet"} for file in bbh})
    questions = [
        {"Question": f"Which force holds particle {i}?", "Correct Answer": f"force {i}"}
        | {f"Incorrect Answer {k}": f"force {i + 10 * k}" for k in (1, 2, 3)}
        for i in range(18)
    ]
    gpqa = {"gpqa_diamond": questions[:6], "gpqa_main": questions[:12], "gpqa_extended": questions}
    for name, rows in gpqa.items():
        parquet(root / "Idavidrein/gpqa", f"{name}/train-00000-of-00001.parquet", rows)
    card(root / "Idavidrein/gpqa", {name: {"train": f"{name}/train-*.parquet"} for name in gpqa})
    subjects = [
        yaml.load(file.read_text(), yaml.BaseLoader)["dataset_name"]
        for file in sorted((HARNESS / "leaderboard/math").glob("math_*.yaml"))
    ]
    for subject in subjects:
        rows = [
            {"problem": f"What is {i} plus 2?", "level": f"Level {5 if i % 3 else 4}", "type": subject,
             "solution": f"The sum is $\\boxed{{{i + 2}}}$."}
            for i in range(6)
        ]  # fmt: skip
        for split in ("train", "test"):
            parquet(root / "DigitalLearningGmbH/MATH-lighteval", f"{subject}/{split}-00000-of-00001.parquet", rows)
    splits = {split: "{}/" + f"{split}-*.parquet" for split in ("train", "test")}
    files = {subject: {split: path.format(subject) for split, path in splits.items()} for subject in subjects}
    card(root / "DigitalLearningGmbH/MATH-lighteval", files)
    rows = [
        {
            "key": i,
            "prompt": f"Write of harbour {i}.",
            "instruction_id_list": ["punctuation:no_comma", "keywords:existence", "detectable_format:title"][
                : 1 + i % 3
            ],
            "kwargs": [{"keywords": None}, {"keywords": ["harbour"]}, {"keywords": None}][: 1 + i % 3],
        }
        for i in range(9)
    ]
    parquet(root / "wis-k/instruction-following-eval", "data/train-00000-of-00001.parquet", rows)
    card(root / "wis-k/instruction-following-eval", {"default": {"train": "data/train-*.parquet"}})
    for split, choices in {
        "murder_mysteries": ["Ann", "Bob"],
        "object_placements": ["shelf", "desk", "box", "bag", "car"],
        "team_allocation": ["Ann leads", "Bob leads", "both lead"],
    }.items():
        rows = [
            {"narrative": f"Story {i}.", "question": "Who or where?", "choices": str(choices),
             "answer_index": i % 2, "answer_choice": choices[i % 2]}
            for i in range(8)
        ]  # fmt: skip
        parquet(root / "TAUR-Lab/MuSR", f"{split}-00000-of-00001.parquet", rows)
    names = ("murder_mysteries", "object_placements", "team_allocation")
    card(root / "TAUR-Lab/MuSR", {"default": {name: f"{name}-*.parquet" for name in names}})
    rows = [
        {"question_id": i, "question": f"How much is {i} and one?", "options": [str(i + k) for k in range(10)],
         "answer": "B", "answer_index": 1, "category": "math"}
        for i in range(12)
    ]  # fmt: skip
    for split in ("test", "validation"):
        parquet(root / "TIGER-Lab/MMLU-Pro", f"data/{split}-00000-of-00001.parquet", rows)
    card(root / "TIGER-Lab/MMLU-Pro", {"default": {s: f"data/{s}-*.parquet" for s in ("test", "validation")}})


DATASETS = {
    "leaderboard": leaderboard,
    "toxigen": toxigen,
    "faitheval": faitheval,
    "spa_vl": spa_vl,
    "mmhal_bench": mmhal_bench,
    "mmlu": mmlu,
    "mmmu": mmmu,
    "truthfulqa": truthfulqa,
}


def write(root: Path, *names: str) -> Path:
    """Write the named copies, or all of them."""
    for name in names or DATASETS:
        DATASETS[name](root)
    return root


if __name__ == "__main__":
    write(Path(sys.argv[1]))
