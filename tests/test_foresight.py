import importlib.metadata
import subprocess
import sys

from click.testing import CliRunner

import foresight


def test_gathers_the_packages_commands():
    result = CliRunner().invoke(foresight.main, ["--help"])
    assert result.exit_code == 0
    assert "evaluate" in result.output


def test_names_its_version():
    result = CliRunner().invoke(foresight.main, ["--version"])
    assert importlib.metadata.version("live-foresight") in result.output


def test_starts_without_the_heavy_libraries():
    code = (
        "import sys, foresight; from click.testing import CliRunner; "
        "assert CliRunner().invoke(foresight.main, ['--help']).exit_code == 0; "
        "print(*{'tensorflow', 'keras', 'tfx', 'apache_beam', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_wrong_command_is_a_usage_error():
    assert CliRunner().invoke(foresight.main, ["nonsense"]).exit_code == 2
