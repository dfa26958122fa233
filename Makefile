# Everything a fresh machine needs: `make demo` segments the sample images, `make test` runs all checks; each builds a
# virtual environment of its own.
PYTHON ?= python3
VENV ?= .venv-test
BIN := $(VENV)/bin
DEMO_VENV ?= .venv
DOCS_VENV ?= .venv-docs
DEMO_OUT ?= demo_output
AUDIT_VENV ?= .venv-audit
HOSTS_VENV ?= .venv-hosts
SBOM ?= sbom.json

# Without a goal, say what there is.
.DEFAULT_GOAL := help

.PHONY: help demo test test-fast test-min lint types pytest hosts docs fuzz licences sbom bench-gpu clean

help:
	@echo "make demo   segment the sample images with the built-in model, into $(DEMO_OUT)/"
	@echo "make test   lint, types, tests"
	@echo "make test-fast  the tests that take seconds"
	@echo "make hosts  the tests with other programs: browser, napari, SpatialData, Triton's client"
	@echo "make docs   the documentation site, into site/"
	@echo "make test-min  segment a sample with the lowest versions of all dependencies; needs the package index"
	@echo "make licences  list the licences of the base install; fails if one is not permissive"
	@echo "make sbom   write the base install's software bill of materials (CycloneDX) to $(SBOM)"
	@echo "make fuzz MINUTES=10  try damaged and made-up inputs of every kind; SEED=n draws others"
	@echo "make bench-gpu CHECKPOINT=weights.pt ENGINES=directory"
	@echo "            on an NVIDIA GPU: the tests that need one and all measurements, in the environment that is active"
	@echo "make clean  remove what these made"

demo: $(DEMO_VENV)/installed
	$(DEMO_VENV)/bin/cellsam-engine samples --out $(DEMO_OUT)
	$(DEMO_VENV)/bin/cellsam-engine segment $(DEMO_OUT)/*_img.png --out $(DEMO_OUT) --overlay --overwrite
	@echo "Labels, tables and overlays are in $(DEMO_OUT)/."

$(DEMO_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(DEMO_VENV)/bin/python -m pip install --quiet .
	touch $@

test: lint types pytest

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

test-min: $(VENV)/installed
	$(BIN)/python -m tests.minimum

# Tools in an environment of their own look at one that has the base install alone.
$(AUDIT_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(AUDIT_VENV)/bin/python -m pip install --quiet --group audit
	touch $@

licences: $(AUDIT_VENV)/installed $(DEMO_VENV)/installed
	$(AUDIT_VENV)/bin/python tests/licences.py --python $(DEMO_VENV)/bin/python

sbom: $(AUDIT_VENV)/installed $(DEMO_VENV)/installed
	$(AUDIT_VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file $(SBOM) $(DEMO_VENV)/bin/python
	@echo "The software bill of materials is in $(SBOM)."

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed
	$(BIN)/mypy

# Each worker has its share of the cores; one needs up to 6 GiB of memory.
JOBS ?= 2
PARALLEL := -n $(JOBS)

pytest: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL) --durations 20

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu and not slow"

# Other programs, each through its own package or client, in an environment of their own.
hosts: $(HOSTS_VENV)/installed
	$(HOSTS_VENV)/bin/python -m pytest -c tests/hosts/pytest.ini --confcutdir tests/hosts --durations 10 tests/hosts

$(HOSTS_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(HOSTS_VENV)
	$(HOSTS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(HOSTS_VENV)/bin/python -m pip install --quiet -e '.[bioimageio,napari,serve,spatialdata]' --group hosts
	touch $@

docs: $(DOCS_VENV)/installed
	$(DOCS_VENV)/bin/python -m mkdocs build --strict

$(DOCS_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS_VENV)/bin/python -m pip install --quiet -e '.[docs]'
	touch $@

# What fails is kept in tests/robustness/found, which the tests replay.
MINUTES ?= 10
SEED ?= 0

fuzz: $(VENV)/installed
	$(BIN)/python -m tests.robustness --minutes $(MINUTES) --seed $(SEED)

# TensorRT is measured where ENGINES has plans ('cellsam-engine build'), through onnxruntime where that has built
# engines before; CUDA with and without graphs.
PLANS = $(wildcard $(ENGINES)/tensorrt)
BY_ORT = $(wildcard $(ENGINES)/tensorrt-ort/*/*)
WITHOUT ?= $(if $(PLANS),,tensorrt) $(if $(BY_ORT),,tensorrt-ort)
GPU_RUNS := --warmup 5 --runs 30

bench-gpu:
	python -m pytest -m gpu tests
	cellsam-engine bench --model $(ENGINES) --backend cuda --cuda-graphs $(if $(PLANS),--backend tensorrt) \
	  $(if $(wildcard $(ENGINES)/tensorrt-rtx),--backend tensorrt-rtx) \
	  $(if $(BY_ORT),--backend tensorrt-ort) --batch 4 --batch 16 $(GPU_RUNS) --images 64 --out benchmarks/results
	python -m benchmarks.attention $(GPU_RUNS)
	python -m benchmarks.latency --checkpoint $(CHECKPOINT) --model $(ENGINES) --device cuda --compile $(GPU_RUNS) \
	  --without $(WITHOUT)

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(DOCS_VENV) $(AUDIT_VENV) site $(DEMO_OUT) $(SBOM) .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis
