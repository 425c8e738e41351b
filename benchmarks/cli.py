"""The command `foresight bench`."""

import importlib
import json
import pkgutil

import click

import benchmarks

_NOT_BENCHES = {"cli", "harness"}


def names() -> list[str]:
    """The benchmarks there are: the modules beside this one, with `-` for `_`."""
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name.replace("_", "-") for name in modules if name not in _NOT_BENCHES)


@click.command()
@click.argument("name", type=click.Choice(names()))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on one line.")
def bench(name: str, as_json: bool) -> None:
    """Measure NAME against its goals."""
    result = importlib.import_module(f"benchmarks.{name.replace('-', '_')}").run()
    if as_json:
        click.echo(json.dumps(result))
        return
    for goal in result["goals"]:
        click.echo(
            f"{'met   ' if goal['met'] else 'MISSED'} {goal['name']}: {goal['value']:,.6g} "
            f"{goal['op']} {goal['goal']:,.6g}"
            f" (median of {goal['runs']}, {goal['low']:,.6g} to {goal['high']:,.6g})"
        )
    click.echo(f"on {result['machine']['processor']}, {result['machine']['cores']} cores")


COMMANDS: list[click.Command] = [bench]
