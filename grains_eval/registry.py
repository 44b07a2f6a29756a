"""Named things that users extend, one table per kind: attribution methods, selections, vector methods, operators.

An entry is made where the thing is defined, by a decorator. A table is completed when it is first read: then the
modules of its package are imported, and after them the packages that announce an entry point (`plugins`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from grains_eval import plugins
from grains_eval.errors import GrainsError

T = TypeVar("T")

_PACKAGE = "grains_eval."


class Registry(Mapping[str, T]):
    """A table of entries by name.

    Args:
        what: One entry in words, for errors: `attribution method`.
        home: The module, or the package of modules, whose import makes the built-in entries.
    """

    def __init__(self, what: str, home: str) -> None:
        self.what = what
        self._home = home
        self._entries: dict[str, T] = {}
        self._is_complete = False

    def add(self, name: str, entry: T, module: str) -> None:
        """Add an entry under a new name.

        Args:
            name: The name.
            entry: What it stands for.
            module: The module that defines it.

        Raises:
            GrainsError: the name is taken.
        """
        if not module.startswith(_PACKAGE):
            self._complete()  # so that the newcomer is the one refused
        if name in self._entries:
            raise GrainsError(f"the {self.what} '{name}' exists already; register yours under another name")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        """The entry of that name."""
        self._complete()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """The names, built-in ones first."""
        self._complete()
        return iter(self._entries)

    def __len__(self) -> int:
        """How many entries there are."""
        self._complete()
        return len(self._entries)

    def _complete(self) -> None:
        if self._is_complete:
            return
        self._is_complete = True  # before the imports: the imported modules read the table too
        try:
            home = import_module(self._home)
            for module in iter_modules(getattr(home, "__path__", ())):
                import_module(f"{self._home}.{module.name}")
        except BaseException:
            self._is_complete = False
            raise
        plugins.load_entry_points()
