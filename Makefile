SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Tests with servers wait for most of their time, so more processes than processors. A file is a process's whole;
# tests/conftest.py says in which order. Plugins that no test here needs take half a second a process.
TEST_PROCESSES := $(shell expr $$(nproc) + 2)
TEST_OPTIONS := --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -p no:helm-charts -p no:locust
# A target's many processes import the same modules. Where the environment asks for no bytecode, each would compile
# all of them anew.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/bytecode
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header

##@ Use

demo: env ## Cluster (unless KUBECONFIG is set), images, model, install, load, SLO report
	@$(BIN)/python -m demo

# Helm, promtool and Prometheus are of Go, small here, and spend up to two fifths of their time collecting garbage.
test: export GOGC := 400
test: env ## Unit, chart and integration tests: no root and no cluster needed
	@$(BIN)/python -m pytest $(TEST_OPTIONS) -m "not nightly" tests/integration tests/chart tests/unit $(PYTEST_ARGS)

test-e2e: env ## End-to-end tests on $KUBECONFIG, or on the embedded cluster
	@$(BIN)/python -m demo --test-e2e

test-nightly: env ## All of test-e2e, the tests that are too long for every change, more examples
	@$(BIN)/python -m pytest -m nightly tests/integration tests/unit
	@$(BIN)/python -m pytest $(TEST_OPTIONS) --hypothesis-profile thorough -m "not nightly" tests/chart tests/unit
	@$(BIN)/python -m demo --test-e2e --nightly

test-regions: env ## Routing between two regions, on two embedded clusters that it takes down afterwards
	@$(BIN)/python -m tests.e2e.regions $(PYTEST_ARGS)

soak: env ## Half an hour at 70 % of a pod's capacity: nothing may fail, grow or drift
	@$(BIN)/python -m demo --soak 1800

cluster-up: env ## Start the embedded Kubernetes
	@$(BIN)/cluster up

cluster-down: env ## Stop the embedded Kubernetes and leave nothing of it
	@$(BIN)/cluster down

##@ Develop

lint: env ## ruff, mypy, and whether what is generated is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m charts.reference --check
	$(BIN)/python -m grafana.generate --check
	$(BIN)/python -m benchmarks.reliability --check
	$(BIN)/python -m benchmarks.scale --check
	$(BIN)/python -m benchmarks.gpu.report --check

format: env ## Let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chart-docs: env ## Write the chart's README from its schema and values
	$(BIN)/python -m charts.reference

dashboards: env ## Write the chart's Grafana dashboards from grafana/
	$(BIN)/python -m grafana.generate

reliability: env ## Write the tables of docs/reliability.md from what the tests of reliability have measured
	@$(BIN)/python -m benchmarks.reliability

PROMETHEUS ?= http://localhost:9090
dashboards-preview: env ## Draw them from $PROMETHEUS into build/dashboards, without a Grafana
	@$(BIN)/python -m grafana.preview --url $(PROMETHEUS) $(PREVIEW_ARGS)

lock: env ## Resolve the dependencies anew into requirements/*.txt
	$(LOCK) --no-deps requirements/uv.in -o requirements/uv.txt
	$(LOCK) --no-deps requirements/kube-tools.in -o requirements/kube-tools.txt
	$(LOCK) pyproject.toml --extra export --extra quantize --extra openvino --extra loadtest --extra latency --extra slo --extra stores --extra tune --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra loadtest --extra latency --extra stores -c requirements/dev.txt -o requirements/tools.txt
	$(LOCK) --no-deps --no-annotate requirements/triton-cpu.in -c <(sed -n 's/^\(openvino==[^ ]*\).*/\1/p' requirements/dev.txt) -o requirements/triton-cpu.txt
	$(filter-out --universal,$(LOCK)) --python-platform x86_64-manylinux_2_28 --no-annotate requirements/triton-tensorflow.in -c <(sed -n 's/^\(\(tensorflow-cpu\|keras\)==[^ ]*\).*/\1/p' requirements/dev.txt) -o requirements/triton-tensorflow.txt
	$(LOCK) --no-deps --no-annotate requirements/engine.in -c requirements/dev.txt -o requirements/engine.txt
	$(LOCK) --no-annotate requirements/stores.in -c requirements/dev.txt -o requirements/stores.txt

dist: env ## Package the chart and the Python wheel into dist/
	@$(BIN)/python -m charts.dist

clean: ## Remove what was built in the checkout (the cache outside it stays)
	rm -rf build dist $(VENV)

# The environment is as current as the lock files that it was made from.
env: $(VENV)/.stamp

$(VENV)/.stamp: requirements/dev.txt requirements/uv.txt pyproject.toml
	@./setup
	@touch $@

help:
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo test test-e2e test-nightly test-regions soak reliability cluster-up cluster-down lint format chart-docs dashboards dashboards-preview lock dist clean env help
