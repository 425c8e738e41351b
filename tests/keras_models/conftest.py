"""Runs these tests on whichever backend KERAS_BACKEND names; `make test-backends` does so on JAX and PyTorch."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Keras's variables and tensors under numpy 2; nothing that a test could change.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't accept a copy keyword")


def pytest_report_header() -> str:
    import keras

    return f"keras {keras.__version__} on {keras.backend.backend()}"
