# Two commands: `make repro` and `make test`. Both make the environment first where it is missing or out of date.
# `make recipes` runs every `sh` block of the documents, and `make test_all` both.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# caches stay in the checkout, too
export PIP_NO_CACHE_DIR := 1
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site
export DVC_GLOBAL_CONFIG_DIR := $(CURDIR)/.dvc/tmp/config
export MPLCONFIGDIR := $(CURDIR)/.dvc/tmp/matplotlib

.PHONY: repro test recipes test_all lint

repro: .git $(BIN)/.installed
	dvc repro

test: chosen := -m "not recipes"
recipes: chosen := -m recipes
test recipes test_all: $(BIN)/.installed
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(chosen)

.git:                            # a download has none
	$(error this folder is no git repository, and DVC works only in one; run `git init`)

lint: $(BIN)/.installed
	ruff check .

$(BIN)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "error: Sonopair needs Python 3.11 or 3.12; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@
