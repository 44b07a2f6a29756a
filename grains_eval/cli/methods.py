"""`methods`: everything that a recipe may name, as the registries have it."""

from __future__ import annotations

import argparse

from grains_eval.cli.command import Command


def _methods(options: argparse.Namespace) -> None:
    from rich.table import Table

    from grains_eval.cli.terminal import output
    from grains_eval.study.registered_names import registered_names

    del options
    console = output()
    for kind, entries in registered_names().items():
        table = Table("name", "what it does", "defined in", title=kind, title_justify="left", box=None)
        for entry in entries:
            table.add_row(entry.name, entry.summary, entry.module)
        console.print(table)
        console.print()


COMMANDS = (
    Command(
        "methods",
        "list what a recipe may name: methods, attributions, selections, operators",
        "grains-eval methods --plugin my_methods",
        lambda parser: None,
        _methods,
        "List every method, attribution method, selection and operator that is registered, plug-ins included.",
    ),
)
