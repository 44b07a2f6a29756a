"""Logs that `inspect_ai` wrote with its mock model, read without it."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison.logs.make_inspect_rule import knows
from tests.comparison.logs.samples import INSPECT, log_of

SIZE = 16


def scores(run, task, label, reducer="none"):
    return [sample.values[label] for sample in run.samples(task)[reducer]]


def test_a_folder_is_one_run_of_all_its_tasks():
    run = read_run(INSPECT / "baseline")
    assert run.name == "baseline" and run.tool == "inspect_ai"
    assert sorted(run.tasks) == ["capitals", "colours", "letters"]
    assert len(run.files) == 3
    assert run.notes == ()


@pytest.mark.parametrize("name", ["baseline", "steered"])
def test_items_and_scores_are_those_that_were_logged(name):
    """`baseline` is an `.eval` file, `steered` one of JSON; what a mock model knows is a rule."""
    run = read_run(INSPECT / name)
    assert scores(run, "capitals", "match_accuracy") == [float(knows(name, i)) for i in range(SIZE)]
    sample = run.samples("capitals")["none"][3]
    assert sample.prompt == "What is the capital of land 3?"
    assert sample.target == "city 3"
    assert sample.responses == ["city 3" if knows(name, 3) else "nowhere"]
    assert sample.doc["metadata"] == {"continent": "c3"}


def test_epochs_are_reduced_as_inspect_reduces_them():
    run = read_run(INSPECT / "steered")
    wanted = [(knows("steered", i, 0) + knows("steered", i, 1)) / 2 for i in range(SIZE)]
    assert 0.5 in wanted
    assert scores(run, "colours", "choice_accuracy") == wanted
    assert np.mean(wanted) == pytest.approx(run.setting("results", "colours", "choice_accuracy,none"))


def test_epochs_without_reductions_are_averaged(tmp_path):
    log = log_of("steered", "capitals")
    content = json.loads(log.read_text())
    del content["reductions"]
    (tmp_path / "log.json").write_text(json.dumps(content))
    assert scores(read_run(tmp_path / "log.json"), "capitals", "match_accuracy") == scores(
        read_run(log), "capitals", "match_accuracy"
    )


def test_the_comparison_pairs_by_document_and_knows_clusters_and_directions():
    rows = {(row.task, row.metric): row for row in compare(INSPECT / "baseline", INSPECT / "steered")}
    row = rows["capitals", "match_accuracy"]
    gained = [i for i in range(SIZE) if knows("steered", i) and not knows("baseline", i)]
    assert (row.helped, row.harmed, row.n, row.test, row.guaranteed) == (len(gained), 0, SIZE, "exact McNemar", True)
    assert row.difference == pytest.approx(len(gained) / SIZE)
    assert rows["colours", "choice_accuracy"].clusters == 8  # stderr(cluster="family"): two flags of each
    assert rows["letters", "polite_accuracy"].higher_is_better is True
    assert rows["letters", "length_mean"].higher_is_better is None


def test_fields_of_the_metadata_name_clusters():
    (row,) = compare(
        log_of("baseline", "capitals"), log_of("steered", "capitals"), clusters={"capitals": "metadata.continent"}
    )
    assert row.clusters == 6


def test_what_differs_between_models_and_solvers_is_noted_and_a_scorer_is_refused(tmp_path):
    log = json.loads(log_of("steered", "capitals").read_text())
    log["plan"]["steps"][0]["params"]["template"] = "Answer at length."
    log["plan"]["config"]["temperature"] = 1.0
    (tmp_path / "log.json").write_text(json.dumps(log))
    report = compare_runs([log_of("baseline", "capitals"), tmp_path / "log.json"])
    said = " ".join(report.notes)
    assert "models differ: mockllm/baseline in 'baseline', mockllm/steered in 'steered'" in said
    assert "task 'capitals': solver differs" in said and "generate_config differs" in said
    log["eval"]["scorers"][0]["options"] = {"location": "end"}
    (tmp_path / "log.json").write_text(json.dumps(log))
    with pytest.raises(GrainsError, match="metric_list differs"):
        compare(log_of("baseline", "capitals"), tmp_path / "log.json")


def test_samples_without_a_score_are_left_out_of_both_and_counted():
    report = compare_runs([INSPECT / "baseline_gaps", INSPECT / "steered_gaps"])
    (row,) = report.rows
    assert (row.comparison.n, row.comparison.excluded) == (3, 0)
    assert any("1 of 4 documents have no fragile_accuracy (1 in 'baseline_gaps', 1 in" in note for note in report.notes)


def test_logs_that_are_unfinished_damaged_or_cut(tmp_path):
    log = json.loads(log_of("steered", "capitals").read_text())
    broken = tmp_path / "log.json"
    broken.write_text(json.dumps({**log, "status": "error"}))
    with pytest.raises(GrainsError, match=r"unfinished .*inspect eval-retry"):
        read_run(broken)
    broken.write_text(json.dumps({**log, "samples": log["samples"][:10]}))
    with pytest.raises(GrainsError, match="10 of 16 samples are in"):
        compare(log_of("baseline", "capitals"), broken)
    packed = log_of("baseline", "capitals").read_bytes()
    for name, content in {"cut": packed[: len(packed) // 2], "empty": b"", "text": b"not a zip file"}.items():
        (tmp_path / f"{name}.eval").write_bytes(content)
        with pytest.raises(GrainsError, match="is damaged or no log"):
            read_run(tmp_path / f"{name}.eval")


def test_a_flipped_byte_in_a_sample_is_seen(tmp_path):
    content = bytearray(log_of("baseline", "capitals").read_bytes())
    with zipfile.ZipFile(log_of("baseline", "capitals")) as archive:
        member = next(info for info in archive.infolist() if info.filename.startswith("samples/"))
    content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0xFF
    (tmp_path / "flipped.eval").write_bytes(content)
    run = read_run(tmp_path / "flipped.eval")
    with pytest.raises(GrainsError, match="is damaged or no log"):
        run.samples("capitals")


def test_a_sample_that_is_not_what_was_written_is_seen(tmp_path):
    content = bytearray(log_of("baseline", "capitals").read_bytes())
    with zipfile.ZipFile(log_of("baseline", "capitals")) as archive:
        name = next(name for name in archive.namelist() if name.startswith("samples/"))
    entry = content.rindex(name.encode()) - 46  # in the directory at the file's end
    content[entry + 16] ^= 0xFF  # its checksum
    (tmp_path / "other.eval").write_bytes(content)
    with pytest.raises(GrainsError, match="is not what it was when it was written"):
        read_run(tmp_path / "other.eval").samples("capitals")


def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path):
    import zstandard

    from grains_eval.comparison.logs.files import zipped_json

    bomb = zstandard.ZstdCompressor().compress(b" " * 50_000_000)
    file = tmp_path / "bomb.eval"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("header.json", bomb)
    content = file.read_bytes()
    for record in (b"PK\x03\x04", b"PK\x01\x02"):  # stored to zstandard, in the local header and the directory
        place = content.index(record) + (8 if record == b"PK\x03\x04" else 10)
        content = content[:place] + b"\x5d\x00" + content[place + 2 :]
    file.write_bytes(content)
    with pytest.raises(GrainsError, match="is damaged or no log"):
        list(zipped_json(file, lambda name: True))


def test_several_models_in_a_folder_are_refused(tmp_path):
    for name in ("baseline", "steered"):
        shutil.copy(log_of(name, "capitals"), tmp_path)
    with pytest.raises(GrainsError, match=r"several models .*mockllm/steered, mockllm/baseline"):
        read_run(tmp_path)


def test_arguments_make_another_task(tmp_path):
    log = json.loads(log_of("steered", "capitals").read_text())
    log["eval"]["task_args_passed"] = {"subset": "north", "shots": 5}
    (tmp_path / "log.json").write_text(json.dumps(log))
    assert read_run(tmp_path / "log.json").tasks == ("capitals[shots=5;subset=north]",)


def test_a_score_whose_metrics_are_no_means_is_noted(tmp_path):
    log = json.loads(log_of("steered", "capitals").read_text())
    log["results"]["scores"][0]["metrics"] = {"f1": {"name": "f1", "value": 0.5}}
    (tmp_path / "log.json").write_text(json.dumps(log))
    (note,) = read_run(tmp_path / "log.json").notes
    assert note == "capitals: score 'match' is left out: of its metrics (f1) none is a mean over samples"


def rescored(content, **scorers):
    """A log whose samples have these scores: by scorer, and then by the score's name."""
    values = [(scorer, name, score) for scorer, scores in scorers.items() for name, score in scores.items()]
    content["results"]["scores"] = [
        {"name": name, "scorer": scorer, "metrics": {"accuracy": {"name": "accuracy", "value": float(score == "C")}}}
        for scorer, name, score in values
    ]
    for sample in content["samples"]:
        sample["scores"] = {scorer: {"value": scores} for scorer, scores in scorers.items()}
    del content["reductions"]
    return content


def test_scorers_that_share_a_score_name_are_told_apart(tmp_path):
    content = json.loads(log_of("steered", "capitals").read_text())
    scorers = {"kind": {"polite": "C", "short": "C"}, "strict": {"polite": "I"}}
    (tmp_path / "log.json").write_text(json.dumps(rescored(content, **scorers)))
    run = read_run(tmp_path / "log.json")
    wanted = {"kind.polite_accuracy": 1.0, "short_accuracy": 1.0, "strict.polite_accuracy": 0.0}
    assert run.samples("capitals")["none"][0].values == wanted
    assert all(run.setting("results", "capitals", f"{label},none") == value for label, value in wanted.items())
    assert run.setting("higher_is_better", "capitals") == dict.fromkeys(wanted, True)


def test_a_partial_answer_is_half(tmp_path):
    content = json.loads(log_of("steered", "capitals").read_text())
    for letter, value in {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "No": 0.0}.items():
        content["samples"][0]["scores"]["match"]["value"] = letter
        (tmp_path / "log.json").write_text(json.dumps({**content, "reductions": None}))
        assert scores(read_run(tmp_path / "log.json"), "capitals", "match_accuracy")[0] == value


def test_reducers_are_filters_and_what_only_inspect_reduces_is_not_averaged(tmp_path):
    content = json.loads(log_of("steered", "capitals").read_text())
    (mean,) = content["results"]["scores"]
    best = {**mean, "reducer": "max", "metrics": {"accuracy": {"name": "accuracy", "value": 1.0}}}
    content["results"]["scores"] = [{**mean, "reducer": "mean"}, best]
    (reduced,) = content["reductions"]
    ones = [{**sample, "value": 1.0} for sample in reduced["samples"]]
    content["reductions"] = [{**reduced, "reducer": "mean"}, {**reduced, "reducer": "max", "samples": ones}]
    (tmp_path / "log.json").write_text(json.dumps(content))
    run = read_run(tmp_path / "log.json")
    assert set(run.samples("capitals")) == {"none", "max"}
    assert scores(run, "capitals", "match_accuracy") == [float(knows("steered", i)) for i in range(SIZE)]
    assert scores(run, "capitals", "match_accuracy", "max") == [1.0] * SIZE
    del content["reductions"][1]
    (tmp_path / "log.json").write_text(json.dumps(content))
    assert np.isnan(scores(read_run(tmp_path / "log.json"), "capitals", "match_accuracy", "max")).all()


def test_attachments_stand_where_they_are_referred_to(tmp_path):
    content = json.loads(log_of("steered", "capitals").read_text())
    sample = content["samples"][0]
    sample["attachments"] = {"q1": "A long question", "a1": "A long answer"}
    sample["input"] = [{"role": "user", "content": "attachment://q1"}]
    sample["output"]["completion"] = "attachment://a1"
    (tmp_path / "log.json").write_text(json.dumps(content))
    found = read_run(tmp_path / "log.json").samples("capitals")["none"][0]
    assert (found.prompt, found.responses) == ("A long question", ["A long answer"])
    sample["input"] = "attachment://q1"
    (tmp_path / "log.json").write_text(json.dumps(content))
    assert read_run(tmp_path / "log.json").samples("capitals")["none"][0].prompt == "A long question"
