"""Commands of `keras_models`: `foresight evaluate`."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pyarrow

    from keras_models.metrics import Interval

_COLUMNS = ("user", "label", "score")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", metavar="COLUMN", help="Another column of scores to compare `score` with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(file: Path, against: str | None, as_json: bool) -> None:
    """AUC, GAUC and UAUC of a scored log.

    FILE is CSV (.gz too) or Parquet with the columns user, label (0 or 1) and score; others may follow. With
    --against, a paired bootstrap over users tells by how much `score` is better than COLUMN, with 95 % intervals.
    """
    from keras_models import metrics

    table = _read(file, [*_COLUMNS, *([against] if against and against not in _COLUMNS else [])])
    try:
        users = _users(table)
        labels, scores = _numbers(table, "label"), _numbers(table, "score")
        figures = metrics.grouped_auc(users, labels, scores)
        difference = (
            metrics.paired_bootstrap(users, labels, scores, _numbers(table, against)) if against is not None else None
        )
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from error

    report = {
        "rows": table.num_rows,
        "users": figures.users,
        "users_left_out": figures.users_left_out,
        "auc": _or_none(figures.auc),
        "gauc": _or_none(figures.gauc),
        "uauc": _or_none(figures.uauc),
    }
    if difference is not None:
        report["against"] = against
        report["difference"] = {name: _interval(interval) for name, interval in difference.items()}
    click.echo(json.dumps(report) if as_json else _text(report))


COMMANDS: list[click.Command] = [evaluate]


def _read(file: Path, columns: list[str]) -> "pyarrow.Table":
    """Reads only `columns`, whatever the file holds beside them."""
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise click.ClickException("reading scored logs needs pyarrow; install it with pip install pyarrow") from error

    if not file.is_file():
        raise click.ClickException(f"{file}: there is no such file")
    try:
        is_parquet = file.suffix == ".parquet" or _starts_as_parquet(file)
        if is_parquet:
            present = pyarrow.parquet.read_schema(file).names
        else:
            with pyarrow.csv.open_csv(file) as reader:
                present = reader.schema.names
        missing = [column for column in columns if column not in present]
        if missing:
            raise click.ClickException(
                f"{file}: no column {', '.join(missing)}; expected {', '.join(columns)}, found {', '.join(present)}"
            )
        if is_parquet:
            table = pyarrow.parquet.read_table(file, columns=columns)
        else:
            # Ids are taken as text: a file may hold numbers first and names later.
            options = pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types={"user": pyarrow.dictionary(pyarrow.int32(), pyarrow.string())},
            )
            table = pyarrow.csv.read_csv(file, convert_options=options)
    except (pyarrow.ArrowException, OSError) as error:
        raise click.ClickException(f"{file}: can't be read as CSV or Parquet, is it whole? {error}") from error
    if not table.num_rows:
        raise click.ClickException(f"{file}: holds no rows")
    return table


def _starts_as_parquet(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def _users(table: "pyarrow.Table"):
    """(rows,) user ids as small integers."""
    import pyarrow

    users = table["user"]
    _check_complete(table, "user")
    if not pyarrow.types.is_dictionary(users.type):
        users = users.dictionary_encode()
    return users.unify_dictionaries().combine_chunks().indices.to_numpy()


def _numbers(table: "pyarrow.Table", column: str):
    """(rows,) a column of numbers."""
    import pyarrow

    values = table[column]
    _check_complete(table, column)
    types = pyarrow.types
    if not (types.is_integer(values.type) or types.is_floating(values.type) or types.is_boolean(values.type)):
        raise ValueError(f"column {column} must hold numbers, found {values.type}")
    return values.to_numpy()


def _check_complete(table: "pyarrow.Table", column: str) -> None:
    if table[column].null_count:
        row = table[column].is_null().index(True).as_py()
        raise ValueError(f"column {column} must be complete, row {row} has no value (rows count from 0)")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _interval(interval: "Interval") -> dict[str, float | None]:
    return {
        "value": _or_none(interval.value),
        "low": _or_none(interval.low),
        "high": _or_none(interval.high),
    }


def _text(report: dict) -> str:
    left_out = report["users_left_out"]
    lines = [
        f"{report['rows']:,} rows of {report['users']:,} users; "
        f"{left_out:,} users ({left_out / report['users']:.1%}) have one class only and are left out of GAUC and UAUC"
    ]
    for name in ("auc", "gauc", "uauc"):
        line = f"{name.upper():<5}" + ("undefined" if report[name] is None else f"{report[name]:.6f}")
        difference = report.get("difference", {}).get(name)
        if difference and difference["value"] is not None:
            line += (
                f"   {difference['value']:+.6f} against {report['against']}"
                f" (95 % interval {difference['low']:+.6f} to {difference['high']:+.6f})"
            )
        lines.append(line)
    return "\n".join(lines)
