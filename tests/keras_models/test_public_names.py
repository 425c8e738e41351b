import importlib
import pkgutil
import subprocess
import sys

import pytest

import keras_models
import keras_models.layers
import keras_models.optimizers


@pytest.mark.parametrize(
    "package", [keras_models.layers, keras_models.optimizers], ids=lambda package: package.__name__
)
def test_each_modules_class_is_public(package):
    """One public class a file, named after it, and importable from the package."""
    modules = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    names = {}
    for name in modules:
        module = importlib.import_module(f"{package.__name__}.{name}")
        (own,) = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__ and not key.startswith("_")
        ]
        assert own.lower() == name.replace("_", "")
        assert getattr(package, own) is getattr(module, own)
        names[own] = module
    assert sorted(package.__all__) == sorted(names)


def test_models_come_from_the_package():
    for name in keras_models.__all__:
        assert getattr(keras_models, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Ranker'; it has GroupedAUC, LiveRanker"):
        keras_models.Ranker  # noqa: B018


def test_metrics_need_numpy_alone():
    code = "import sys, keras_models.metrics; print(sorted({'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_layers_and_models_need_nothing_but_keras():
    """On another backend TensorFlow isn't imported by us; tfx, beam and the other packages never are."""
    code = (
        "import sys, keras_models, keras_models.layers, keras_models.optimizers; keras_models.LiveRanker; "
        "print(sorted({'tfx', 'apache_beam', 'beam_transforms', 'tfx_pipeline', 'serving'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
