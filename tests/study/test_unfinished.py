"""One process at a time builds a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from grains_eval.errors import GrainsError


def test_a_second_build_into_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    from grains_eval.study.unfinished import claimed

    with claimed(tmp_path / "vectors"):
        with pytest.raises(GrainsError, match="another process is building"), claimed(tmp_path / "vectors"):
            pass
        with claimed(tmp_path / "others"):
            pass
    with claimed(tmp_path / "vectors"):
        pass
    assert not list(tmp_path.iterdir())
