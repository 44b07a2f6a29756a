"""Tables that users extend."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.registry import Registry


def test_a_table_is_complete_when_it_is_first_read():
    table = Registry[int]("number", "math")
    table.add("one", 1, "grains_eval.somewhere")
    table.add("two", 2, "theirs")
    assert dict(table) == {"one": 1, "two": 2} and len(table) == 2 and "three" not in table


def test_a_name_is_given_once():
    table = Registry[int]("number", "math")
    table.add("one", 1, "grains_eval.somewhere")
    with pytest.raises(GrainsError, match="the number 'one' exists already; register yours under another name"):
        table.add("one", 2, "theirs")
    assert table["one"] == 1


def test_a_home_that_cannot_be_imported_is_tried_again():
    table = Registry[int]("number", "no_such_module_here")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            len(table)
