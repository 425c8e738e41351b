"""What a service that asks for rankings has to load."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "tensorflow",
    "tensorflow_serving",
    "keras",
    "apache_beam",
    "pyarrow",
    "pandas",
    "scipy",
    "tfx",
    "faiss",
    "h5py",
)


def _heavy_modules(code: str) -> list[str]:
    code += f"\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}} & {set(HEAVY)}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import serving.client",
        "import serving.client, beam_transforms.online_store, beam_transforms.lmdb_store, beam_transforms.redis_store",
        "import foresight; foresight.rank",
        "import serving.model_service_client, serving.canary, serving.canary.client, serving.launch, serving.publisher",
    ],
)
def test_the_client_loads_no_heavy_library(code):
    assert _heavy_modules(code) == []


def test_the_check_sees_a_heavy_library():
    assert _heavy_modules("import sys, types; sys.modules['pandas'] = types.ModuleType('pandas')") == ["pandas"]


def test_the_client_needs_little():
    """Beside Python's own modules and the project's: what the extra `client` of pyproject.toml names, and numpy."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import serving.client\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    optional = {"grpc_tools", "cython_runtime"}  # grpc looks for its tools, and does without them
    assert loaded - optional <= {"serving", "numpy", "grpc", "google", "typing_extensions"}
