"""`export` writes vectors as other tools read them, `import` reads theirs, `push` publishes an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from grains_eval.cli.command import Command

_FORMATS = "gguf (llama.cpp), lm_eval_steered, repeng, steering_vectors or easysteer"


def _output(parser: argparse.ArgumentParser, metavar: str, default: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output_path", "-o", type=Path, metavar=metavar, help=f"where to (default {default})")
    group.add_argument("--overwrite", action="store_true", help="replace what is there")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an artifact folder, or a hub id (org/name@revision)")
    parser.add_argument("--format", required=True, metavar="FORMAT", help=_FORMATS)
    group = parser.add_argument_group("setting (default: as the artifact recommends)")
    group.add_argument("--strength", metavar="NUMBER", help="a number")
    group.add_argument("--layers", metavar="8-12", help="14, 8-12, 8/14/20 or all")
    group.add_argument("--unit", metavar="UNIT", help="relative or absolute")
    parser.add_argument(
        "--model_args",
        "-a",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="pretrained=MODEL, for lm_eval_steered, where the artifact's base model is elsewhere now",
    )
    _output(parser, "FILE", "beside the folder, with the format's suffix")


def _export(options: argparse.Namespace) -> None:
    from grains_eval.cli.terminal import output
    from grains_eval.exchange.transfer import export_artifact
    from grains_eval.models.loading import parse_model_args

    made = export_artifact(
        options.folder,
        options.format,
        options.output_path,
        {name: getattr(options, name) for name in ("strength", "layers", "unit")},
        parse_model_args(",".join(options.model_args)),
        options.overwrite,
    )
    console = output()
    lines = [f"wrote {made.file}", *(f"note: {note}" for note in made.notes), f"load it with: {made.use}"]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a GGUF file, or a .pt file of plain tensors")
    parser.add_argument("--format", metavar="FORMAT", help=f"{_FORMATS} (default: as the file's content says)")
    parser.add_argument("--base_model", metavar="MODEL", help="the model that the vectors are for, for the card")
    _output(parser, "FOLDER", "beside the file, without its suffix")


def _import(options: argparse.Namespace) -> None:
    from grains_eval.cli.terminal import output
    from grains_eval.exchange.transfer import import_file
    from grains_eval.report.show import show_folder

    folder, _ = import_file(options.file, options.output_path, options.format, options.base_model, options.overwrite)
    show_folder(folder, output())


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="an artifact folder")
    parser.add_argument("repository", metavar="ORG/NAME", help="where to, or org/name@branch; made where it is missing")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="a report of `compare` with results for the card")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--overwrite", action="store_true", help="replace an artifact or other files there")


def _push(options: argparse.Namespace) -> None:
    from grains_eval.artifacts.hub import push
    from grains_eval.cli.terminal import output

    where = push(
        options.folder,
        options.repository,
        report=options.report,
        private=options.private,
        overwrite=options.overwrite,
    )
    said = f"pushed to {where}\nevaluate it with: --model_args pretrained=MODEL,vectors={options.repository}"
    output().print(said, markup=False, highlight=False, soft_wrap=True)


COMMANDS = (
    Command(
        "export",
        "write vectors as llama.cpp, lm-eval, repeng, steering-vectors or EasySteer read them",
        "grains-eval export steering_vectors/truthfulqa-name --format gguf",
        _export_arguments,
        _export,
        "Write the vectors of an artifact, at the setting it recommends, as another tool reads them.\n"
        "What the format cannot hold is refused, or said in one line. Nothing is replaced without --overwrite.",
    ),
    Command(
        "import",
        "make an artifact folder from another tool's file",
        "grains-eval import happy.gguf --base_model org/name",
        _import_arguments,
        _import,
        "Make an artifact folder from a control vector of llama.cpp, repeng or EasySteer (GGUF), or from plain\n"
        "tensors of lm-eval's steered model or steering-vectors (.pt). Nothing is unpickled.",
    ),
    Command(
        "push",
        "publish an artifact folder on the hub",
        "grains-eval push steering_vectors/truthfulqa-name org/truthfulqa-name --report runs/compare",
        _push_arguments,
        _push,
        "Publish an artifact folder on the hub, with a card whose metadata the hub indexes, measured results\nincluded "
        "where a report is given. `vectors=org/name@revision` reads it back. Log in with `hf auth login`.",
    ),
)
