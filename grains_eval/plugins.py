"""Methods from outside the package: entry points of installed packages, and modules that the user names.

A plug-in is an ordinary module; importing it runs the decorators that register what it defines. A package announces
its module in its own `pyproject.toml`:

    [project.entry-points."grains_eval.methods"]
    mine = "my_package.my_methods"

A module that is not installed is named with `--plugin`, with `plugins:` in a recipe or with `plugins=` among the
model's arguments. Nothing else is imported: an artifact never names code to run.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module, util
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from grains_eval.errors import GrainsError, first_line

logger = logging.getLogger(__name__)

GROUP = "grains_eval.methods"

_named: dict[str, ModuleType] = {}
_announced: list[str] = []
_digests: dict[str, str] = {}


def load_entry_points() -> None:
    """Import what installed packages announce, once; a failure only warns, since nobody may have asked for it."""
    if _announced:
        return
    _announced.append(GROUP)
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
            _remember(sys.modules[entry.module])
        except Exception as error:  # other people's code may fail in any way
            logger.warning("the plug-in %s (%s) could not be imported: %s", entry.name, entry.value, first_line(error))


def load_plugins(names: Iterable[str], folder: Path | None = None) -> None:
    """Import modules that the user names; one that is loaded already is left alone.

    Args:
        names: Names of modules, looked for in the working directory too, or paths of `.py` files.
        folder: Where a relative path may begin besides the working directory, such as the folder of the recipe.

    Raises:
        GrainsError: no such module or file, or its import fails.
    """
    for name in names:
        file = _file(name, folder)
        key = str(file) if file is not None else name
        if key in _named:
            continue
        try:
            _named[key] = _import(name) if file is None else _import_file(file)
            _remember(_named[key])
        except GrainsError as error:
            raise GrainsError(f"plug-in '{name}': {error}") from error
        except Exception as error:  # the user's own code may fail in any way
            raise GrainsError(
                f"plug-in '{name}' could not be imported ({type(error).__name__}: {first_line(error)}); give the name "
                "of a module that Python finds here, or the path of a .py file"
            ) from error


def digests() -> Mapping[str, str]:
    """By module name, 16 hex digits over the source of every imported plug-in as it was then."""
    load_entry_points()
    return _digests


def _remember(module: ModuleType) -> None:
    source = Path(module.__file__) if module.__file__ else None
    content = source.read_bytes() if source is not None and source.is_file() else b""
    _digests[module.__name__] = hashlib.sha256(content).hexdigest()[:16]


def _file(name: str, folder: Path | None) -> Path | None:
    """The file that a name ending in `.py` means; None for the name of a module."""
    if not name.endswith(".py"):
        return None
    places = [Path(name), *([folder / name] if folder is not None else [])]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        looked = " and ".join(str(place.parent.resolve()) for place in places)
        raise GrainsError(f"plug-in '{name}' is not a file; looked in {looked}")
    return file.resolve()


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    # a console script, unlike `python -m`, does not look in the working directory
    if here in sys.path:
        return import_module(name)
    sys.path.insert(0, here)
    try:
        return import_module(name)
    finally:
        sys.path.remove(here)


def _import_file(file: Path) -> ModuleType:
    spec = util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    known = sys.modules.get(file.stem)
    if known is not None and known.__dict__.get("__file__") and Path(str(known.__file__)).resolve() == file:
        return known  # named as a module before
    if known is not None:
        raise GrainsError(f"a module '{file.stem}' exists already; give the file another name")
    module = util.module_from_spec(spec)
    sys.modules[file.stem] = module  # as `import` does, so that dataclasses of the module find it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module
