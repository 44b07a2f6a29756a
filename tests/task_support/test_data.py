import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.task_support import data as task_data
from tests import localdata
from tests.localdata import encoded_image


def message(error: pytest.ExceptionInfo[GrainsError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_copy_is_one_line_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAINS_EVAL_DATA", str(tmp_path))
    with pytest.raises(GrainsError) as error:
        task_data.fetch("org/set", "main", ["*"])
    assert "'org/set'" in message(error) and str(tmp_path) in message(error)


def test_an_unreachable_hub_is_one_line_that_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GRAINS_EVAL_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(GrainsError) as error:
        task_data.fetch("org/no-such-set", "main", ["*"])
    assert "'org/no-such-set'" in message(error) and "GRAINS_EVAL_DATA" in message(error)


def test_columns_and_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(task_data.DATA_VARIABLE, str(localdata.write(tmp_path / "copy", "spa_vl")))
    folder = task_data.fetch("sqrti/SPA-VL", "any", ["*"])
    assert task_data.read_parquet(folder, "validation/*.parquet", ("question",)).num_rows == 12
    with pytest.raises(GrainsError) as error:
        task_data.read_parquet(folder, "validation/*.parquet", ("question", "prize"))
    assert "no column prize" in message(error)
    with pytest.raises(GrainsError) as error:
        task_data.read_parquet(folder, "train/*.parquet", ())
    assert "train/*.parquet" in message(error)
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(GrainsError) as error:
        task_data.read_parquet(tmp_path, "a.parquet", ())
    assert "not readable parquet" in message(error)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[{]", "not JSON"),
        ("{}", "list of objects"),
        ("[]", "at least one"),
        ('[{"a": 1}]', "item 0: no field b"),
    ],
)
def test_json_is_checked(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(GrainsError) as error:
        task_data.read_json(tmp_path, "rows.json", ("b",))
    assert complaint in message(error)


def test_images_leave_the_table_and_are_found_by_their_hash():
    content = [encoded_image(0), encoded_image(1, "L")]
    table = pa.table({"image": [{"bytes": item, "path": None} for item in content], "n": [0, 1]})
    kept = task_data.keep_pictures(table)
    assert kept.column_names == ["n", "image_sha256"]
    first, second = (task_data.picture(sha) for sha in kept["image_sha256"].to_pylist())
    assert first.tobytes() == Image.open(io.BytesIO(content[0])).tobytes()
    assert first.mode == second.mode == "RGB" and first.tobytes() != second.tobytes()


def test_plain_bytes_are_images_too():
    sha = task_data.keep_pictures(pa.table({"image": [encoded_image(3)]}))["image_sha256"][0].as_py()
    assert task_data.picture(sha).size == (40, 30)


def test_damaged_missing_and_unknown_images_are_one_line(tmp_path: Path):
    whole = encoded_image(2)
    sha = task_data.keep_pictures(pa.table({"image": [whole[: len(whole) // 2]]}))["image_sha256"][0].as_py()
    for call, complaint in [
        (lambda: task_data.picture(sha), "row 0 of column 'image' is damaged"),
        (lambda: task_data.picture("0" * 64), "unknown in this process"),
        (lambda: task_data.keep_picture_file(tmp_path / "no.jpg"), "no.jpg' is missing"),
        (lambda: task_data.keep_pictures(pa.table({"image": [b""]})), "row 0"),
    ]:
        with pytest.raises(GrainsError) as error:
            call()
        assert complaint in message(error)
