"""Writes the folders in `lmms/` with `lmms-eval` itself and its dummy model, which always gives the same answer.

`pip install lmms-eval==0.7.3`, then `python tests/comparison/logs/make_lmms_logs.py`. Two tasks about generated
pictures: one whose metric is the mean of 0 and 1, and one whose scores are records that the task aggregates itself, in
clusters, as those of most video benchmarks are.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent / "lmms"
SIZE = 40

UTILS = """
from PIL import Image

def picture(doc):
    return [Image.new("RGB", (8, 8), doc["colour"])]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def score(doc, results):
    return {"film_score": {"id": doc["id"], "film": doc["film"], "score": float(results[0] == doc["answer"])}}

def share(results):
    return 100 * sum(result["score"] for result in results) / len(results)
"""
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.picture
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4}}
metadata: [{{version: 0.0}}]
"""
SHAPES = (
    "task: shapes\nmetric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}]\n"
)
FILMS = (
    "task: films\ncluster_key: film\nprocess_results: !function utils.score\n"
    "metric_list: [{metric: film_score, aggregation: !function utils.share, higher_is_better: true}]\n"
)


def write(home: Path) -> None:
    work = Path("tasks")
    work.mkdir()
    rows = [
        {"id": i, "film": f"film {i // 2}", "question": f"Which shape is in picture {i}?", "answer": "ABB"[i % 3],
         "colour": "red" if i % 2 else "blue"}
        for i in range(SIZE)
    ]  # fmt: skip
    Path("rows.json").write_text("\n".join(map(json.dumps, rows)))
    (work / "utils.py").write_text(UTILS)
    common = COMMON.format(data="rows.json")
    (work / "shapes.yaml").write_text(SHAPES + common)
    (work / "films.yaml").write_text(FILMS + common)
    for name, response in (("baseline", "A"), ("steered", "B")):
        words = (
            f"--model dummy --model_args response={response} --tasks shapes,films --include_path tasks --log_samples"
        )
        command = [sys.executable, "-m", "lmms_eval", *words.split(), "--output_path", name, "--batch_size", "1"]
        subprocess.run(command, check=True, env={**os.environ, "GIT_DIR": "none"})
        (file,) = Path(name).glob("*_results.json")
        results = json.loads(file.read_text())
        results["pretty_env_info"] = ""  # the machine's
        file.write_text(json.dumps(results, indent=1))
        shutil.copytree(name, home / name)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:  # results name the folder that they were made in
        shutil.rmtree(HERE, ignore_errors=True)
        with tempfile.TemporaryDirectory() as outside:
            shutil.copy(__file__, Path(outside, "make.py"))
            subprocess.run([sys.executable, "make.py", HERE], cwd=outside, check=True)
