"""Makes `lm_eval --model grains_hf` resolve, and our tasks findable, in every process that imports lm_eval.

Released lm_eval (0.4.13) reads no entry points and looks the model's name up before any user code runs. So
a `.pth` file imports this module at interpreter start. It only puts a finder on `sys.meta_path`; the work
is done if and when lm_eval itself imports the two modules below. The rules: import nothing but `sys` at
start, never raise, do nothing where lm_eval does it by itself. `GRAINS_EVAL_NO_HOOK=1` in the environment
switches it off.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType
    from typing import Any

MODELS = {
    "grains_hf": "grains_eval.harness.model:GrainsHF",
    "grains_vllm": "grains_eval.vllm.model:GrainsVLLM",
}


def register_models(module: "ModuleType") -> None:
    """Add the lazy names of our models, unless lm_eval found them through the entry points."""
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def add_task_directory(module: "ModuleType") -> None:
    """Let `TaskIndex.build` read our tasks right after lm_eval's own, so that `--include_path` still wins."""
    from functools import wraps
    from pathlib import Path

    from grains_eval.tasks_path import is_installed, task_directory

    if hasattr(module, "discover_plugin_task_paths") and is_installed():
        return  # this lm_eval reads the `lm_eval.tasks` entry point
    index: Any = getattr(module, "TaskIndex")  # noqa: B009 - a module's attribute that no stub declares
    build: Callable[..., Any] = index.build
    if getattr(build, "adds_grains_eval", False):
        return
    ours, defaults = task_directory(), Path(str(module.__file__)).parent

    @wraps(build)
    def build_with_ours(paths: "Iterable[Path]", **options: "Any") -> "Any":
        folders = list(paths)
        if defaults in folders and ours not in folders:
            folders.insert(folders.index(defaults) + 1, ours)
        return build(folders, **options)

    build_with_ours.adds_grains_eval = True  # type: ignore[attr-defined]
    index.build = staticmethod(build_with_ours)


HOOKS: "dict[str, Callable[[ModuleType], None]]" = {
    "lm_eval.models": register_models,
    "lm_eval.tasks.manager": add_task_directory,
}
_pending = dict(HOOKS)


def _run(name: str, module: "ModuleType") -> None:
    """Run a module's hook once; a failure is a warning, since lm_eval must work without us."""
    hook = _pending.pop(name, None)
    if hook is None:
        return
    try:
        hook(module)
    except Exception as error:
        import warnings

        warnings.warn(f"grains-eval could not register with lm_eval: {error!r}", RuntimeWarning, stacklevel=2)


class Finder:
    """Finds the two modules as usual and has their hook run after them."""

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Wrap the loader of a module that has a hook pending; let every other name pass."""
        if name not in _pending:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            _run(name, module)  # here, not in find_spec: merely looking for the module must not use up the hook

        spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    """Hook modules that are yet to be imported, and run the hooks of those that already are."""
    for name in HOOKS:
        if name in sys.modules:
            _run(name, sys.modules[name])
    if _pending and Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def switched_off() -> bool:
    """Tell whether the environment says not to touch lm_eval."""
    import os

    return os.environ.get("GRAINS_EVAL_NO_HOOK", "") not in ("", "0")


def at_start() -> None:
    """What the `.pth` file asks for."""
    if not switched_off():
        install()
