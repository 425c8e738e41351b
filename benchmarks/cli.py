"""The command `foresight bench`."""

import ast
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import click

import benchmarks

_NOT_BENCHES = {"cli", "harness"}


def names() -> list[str]:
    """The benchmarks there are: the modules beside this one, with `-` for `_`."""
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)
    return sorted(name.replace("_", "-") for name in modules if name not in _NOT_BENCHES)


class _Benchmarks(click.Group):
    """One command a module, imported when it is called: a benchmark may need what others do without."""

    def list_commands(self, context: click.Context) -> list[str]:
        return names()

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_line(name)) for name in names()])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in names():
            return None
        module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
        as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on one line.")

        def measure(as_json: bool, **options: Any) -> None:
            _print(module.run(**options), as_json)

        return click.Command(
            name,
            callback=measure,
            params=[*getattr(module, "OPTIONS", []), as_json],
            help=module.__doc__,
            context_settings={"help_option_names": ["-h", "--help"]},
        )


@click.group(cls=_Benchmarks, name="bench")
def bench() -> None:
    """Measure what the project promises against its goals."""


def _first_line(name: str) -> str:
    """What the module says it does; read, not imported."""
    source = (Path(benchmarks.__file__).parent / f"{name.replace('-', '_')}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    for measured in [*result["goals"], *result["figures"]]:
        verdict, target = "      ", ""
        if "goal" in measured:
            verdict = "met   " if measured["met"] else "MISSED"
            target = f" {measured['op']} {measured['goal']:,.6g}"
        click.echo(
            f"{verdict} {measured['name']}: {measured['value']:,.6g}{target}"
            f" (median of {measured['runs']}, {measured['low']:,.6g} to {measured['high']:,.6g})"
        )
    click.echo(f"on {result['machine']['processor']}, {result['machine']['cores']} cores")


COMMANDS: list[click.Command] = [bench]
