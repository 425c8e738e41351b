"""Runs the examples in the docstrings of everything public in keras_models, on every backend."""

import importlib
import inspect
import pkgutil

import keras
import pytest

import keras_models

from .layer_checks import check_docstring_example

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(keras_models.__path__, "keras_models.")
    if not module.ispkg and not module.name.rpartition(".")[2].startswith(("_", "cli", "export"))
)
_NEED_AN_EXAMPLE = (keras.layers.Layer, keras.optimizers.Optimizer)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    module = importlib.import_module(name)
    is_for_others = name.startswith(("keras_models.layers.", "keras_models.optimizers."))
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == name and not cls.__name__.startswith("_"):
            lines = check_docstring_example(cls)
            if is_for_others and issubclass(cls, _NEED_AN_EXAMPLE):
                assert lines, f"the docstring of {cls.__name__} needs an example"
