"""Pipeline options of distributed runners, from the files below `options`."""

from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "options"


def runner_flags(runner: str, **overrides: Any) -> list[str]:
    """The command line flags of a runner, for `PipelineOptions`.

    Args:
        runner: Name of a file below `beam_transforms/options`: "flink", "dataflow" or "spark".
        overrides: Values instead of the file's, and for options that it leaves open (null there).

    Raises:
        ValueError: There is no such file, or an option that has to be given isn't.
    """
    path = _FOLDER / f"{runner}.yaml"
    known = sorted(file.stem for file in _FOLDER.glob("*.yaml"))
    if runner not in known:
        raise ValueError(f"no options for the runner {runner!r}; there are some for {', '.join(known)}")
    options = yaml.safe_load(path.read_text()) | overrides
    missing = [name for name, value in options.items() if value is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given for the runner {runner!r}; {path.name} leaves it open")
    flags = []
    for name, value in options.items():
        if isinstance(value, bool):
            flags += [f"--{name}"] if value else []
        elif isinstance(value, list):
            flags += [f"--{name}={item}" for item in value]
        else:
            flags.append(f"--{name}={value}")
    return flags
