"""Runs of the harness's leaderboard groups, made from random answers."""

import numpy as np

from tests.comparison.folders import TaskData, write_run

BBH = {
    "boolean_expressions": 2, "causal_judgement": 2, "date_understanding": 6, "disambiguation_qa": 3,
    "formal_fallacies": 2, "geometric_shapes": 11, "hyperbaton": 2, "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7, "logical_deduction_three_objects": 3, "movie_recommendation": 6,
    "navigate": 2, "object_counting": 19, "penguins_in_a_table": 5, "reasoning_about_colored_objects": 18,
    "ruin_names": 6, "salient_translation_error_detection": 6, "snarks": 2, "sports_understanding": 2,
    "temporal_sequences": 4, "tracking_shuffled_objects_five_objects": 5, "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3, "web_of_lies": 2,
}  # fmt: skip
MUSR = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
MATH = ("algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalculus")
SUBJECTS = tuple(f"mmlu_subject{i}" for i in range(5))
GPQA = {"diamond": 20, "main": 45, "extended": 60}  # each holds the one before it


def answers(generator, count, share):
    return (generator.random(count) < share).astype(float).tolist()


def data(generator, metric, count, share, shots, **more):
    return TaskData({metric: answers(generator, count, share)}, shots=shots, **more)


def version_2(seed, share=0.7, **shares):
    """Tasks of `open_llm_v2` by name: `share` of answers is right, or what `shares` says of a task."""
    generator = np.random.default_rng(seed)
    of = lambda task: shares.get(task, share)  # noqa: E731
    tasks = {}
    for place, name in enumerate(BBH):
        tasks[f"leaderboard_bbh_{name}"] = data(generator, "acc_norm", 30 + place, of(name), 3)
    for name, count in GPQA.items():
        docs = [{"Question": f"question {i}", "subset": name} for i in range(count)]
        tasks[f"leaderboard_gpqa_{name}"] = data(generator, "acc_norm", count, of(name), 0, docs=docs)
    for place, name in enumerate(MUSR):
        tasks[f"leaderboard_musr_{name}"] = data(generator, "acc_norm", 25 + 10 * place, of(name), 0)
    for place, name in enumerate(MATH):
        tasks[f"leaderboard_math_{name}_hard"] = data(generator, "exact_match", 15 + place, of(name), 4)
    tasks["leaderboard_mmlu_pro"] = data(generator, "acc", 200, of("mmlu_pro"), 5)
    followed = [[bool(x) for x in generator.random(1 + i % 3) < of("ifeval")] for i in range(60)]
    tasks["leaderboard_ifeval"] = TaskData(
        {"prompt_level_strict_acc": [float(all(row)) for row in followed], "inst_level_strict_acc": followed},
        reported={"inst_level_strict_acc": sum(map(sum, followed)) / sum(map(len, followed))},
        aggregation={"inst_level_strict_acc": "<function agg_inst_level_acc at 0x7f>"},
    )
    return tasks


def groups_2(tasks):
    members = {
        group: [name for name in tasks if name.startswith(f"leaderboard_{group}_")]
        for group in ("bbh", "gpqa", "musr", "math")
    }
    named = {f"leaderboard_{'math_hard' if group == 'math' else group}": names for group, names in members.items()}
    children = [*named, "leaderboard_mmlu_pro", "leaderboard_ifeval"]
    return {group: (names, {}) for group, names in {**named, "leaderboard": children}.items()}


def write_2(folder, tasks, **settings):
    return write_run(folder, tasks, groups=groups_2(tasks), **settings)


def version_1(seed, share=0.7):
    generator = np.random.default_rng(seed)
    tasks = {
        "arc_challenge": data(generator, "acc_norm", 40, share, 25),
        "hellaswag": data(generator, "acc_norm", 50, share, 10),
        "truthfulqa_mc2": TaskData({"acc": generator.random(30).tolist()}),
        "winogrande": data(generator, "acc", 45, share, 5),
        "gsm8k": data(generator, "exact_match", 35, share, 5, filter="strict-match"),
    }
    for place, subject in enumerate(SUBJECTS):
        tasks[subject] = data(generator, "acc", 10 + 15 * place, share * place / 4, 5)
    return tasks


def write_1(folder, tasks, **settings):
    return write_run(folder, tasks, groups={"mmlu": (SUBJECTS, {})}, **settings)


def mean(task, metric):
    values = task.values[metric]
    return sum(values) / len(values)


def score_2(tasks):
    """The scores of `open_llm_v2`, written out: 0 to 1 by benchmark."""

    def over_chance(score, choices):
        return max(0.0, (score - 1 / choices) / (1 - 1 / choices))

    def pooled(prefix, metric):
        rows = [value for name, task in tasks.items() if name.startswith(prefix) for value in task.values[metric]]
        return sum(rows) / len(rows)

    followed = tasks["leaderboard_ifeval"].values
    by_choices: dict[str, float] = {}
    for group, choices in (("bbh", BBH), ("musr", MUSR)):
        each = [over_chance(mean(tasks[f"leaderboard_{group}_{name}"], "acc_norm"), n) for name, n in choices.items()]
        by_choices[group] = sum(each) / len(each)
    scores = {
        "leaderboard_ifeval": (
            mean(tasks["leaderboard_ifeval"], "prompt_level_strict_acc")
            + sum(map(sum, followed["inst_level_strict_acc"])) / sum(map(len, followed["inst_level_strict_acc"]))
        )
        / 2,
        "leaderboard_bbh": by_choices["bbh"],
        "leaderboard_math_hard": pooled("leaderboard_math_", "exact_match"),
        "leaderboard_gpqa": over_chance(pooled("leaderboard_gpqa_", "acc_norm"), 4),
        "leaderboard_musr": by_choices["musr"],
        "leaderboard_mmlu_pro": over_chance(mean(tasks["leaderboard_mmlu_pro"], "acc"), 10),
    }
    return scores | {"leaderboard": sum(scores.values()) / 6}
