SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTEST := .venv/bin/python -m pytest

BACKENDS_PYTHON := .venv-backends/bin/python

.PHONY: help setup demo test test-slow test-backends test-jax test-torch test-flink bench docs lint format lock protos clean

help:  ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.venv/ready: requirements.lock pyproject.toml tools/setup.sh tools/relax_glibc.py
	@tools/setup.sh

setup: .venv/ready  ## Sets up .venv with the pinned dependencies

demo: .venv/ready  ## Drives the whole road on a simulated day: build/demo/report.html
	@.venv/bin/foresight demo

test: .venv/ready  ## Runs the default test suite
	$(PYTEST)

test-slow: .venv/ready  ## Runs the slow and end-to-end tests
	$(PYTEST) -m 'slow or e2e' --timeout 1800

# TensorFlow, JAX and PyTorch together, with what the benchmarks compare with: out of the way of demo and test.
.venv-backends/ready: requirements-backends.lock | .venv/ready
	@echo "setup: installing JAX, PyTorch and the benchmarks' peers into .venv-backends (the first time about 6 GB)"
	@rm -f $@
	@.venv/bin/python -m venv --clear .venv-backends
	@.venv/bin/uv pip sync --quiet --python $(BACKENDS_PYTHON) --python-platform x86_64-manylinux_2_39 \
	    --require-hashes requirements-backends.lock
	@touch $@

test-backends: test-jax test-torch  ## Runs the layers' and models' tests on JAX and on PyTorch (-j2: at once)

# JAX compiles each operation of each new shape: tests of whole models, but in the examples, take many minutes there.
# Tests that train until something is learned run on TensorFlow only. KERAS_BACKEND=... pytest tests/keras_models runs all.
JAX_TESTS := $(addprefix tests/keras_models/,layers optimizers test_layers_in_models.py test_grouped_auc.py test_metrics.py)

test-jax: .venv-backends/ready
	KERAS_BACKEND=jax $(BACKENDS_PYTHON) -m pytest $(JAX_TESTS) tests/examples/test_examples.py -k 'not learns'

test-torch: .venv-backends/ready
	KERAS_BACKEND=torch $(BACKENDS_PYTHON) -m pytest tests/keras_models tests/examples/test_examples.py -k 'not learns'

build/flink/ready: tools/flink/pom.xml tools/flink/cluster/pom.xml tools/flink/broker/pom.xml
	@command -v java > /dev/null && command -v mvn > /dev/null || \
	    { echo "test-flink: needs Java 17 or newer and Maven (java and mvn on the PATH): tools/servers.sh"; exit 1; }
	@echo "test-flink: fetching Flink, Beam's job server and Kafka (the first time about 260 MB)"
	@mvn -B -q -f tools/flink/pom.xml package
	@touch $@

test-flink: .venv/ready build/flink/ready  ## Runs the stream on a local Flink from Kafka, with crashes on the way
	$(PYTEST) tests/flink -m flink

bench: .venv-backends/ready  ## Measures the layers against PyTorch and DeepCTR
	$(BACKENDS_PYTHON) -m foresight bench layers

docs: .venv/ready  ## Builds the documentation and the API reference: build/site/index.html
	.venv/bin/mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"

lint: .venv/ready  ## Checks style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/ready  ## Formats the code
	.venv/bin/ruff check --fix --quiet .
	.venv/bin/ruff format .

lock: .venv/ready  ## Pins the newest versions that fit pyproject.toml
	.venv/bin/uv pip compile pyproject.toml --upgrade --extra pipeline --group dev --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_39 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --no-header --no-annotate --quiet --output-file requirements.lock
	.venv/bin/uv pip compile pyproject.toml --upgrade --group backends --constraints requirements.lock \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_39 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-header --no-annotate --quiet --output-file requirements-backends.lock

protos: .venv/ready  ## Compiles the client's protos again
	.venv/bin/python -m serving.protos.compile

clean:  ## Removes what was built, but not .venv
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
