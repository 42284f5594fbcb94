# The commands for users. Each target sets up .venv if needed; `make` without a target lists them.
#
# pip selects the build of torch. For the CPU build, give pip another index through its environment:
#     PIP_EXTRA_INDEX_URL=... make demo
# Seeds and all other numbers are in params.yaml.

SHELL := /bin/bash
PYTHON ?= python3
CORES ?= all
JOBS ?= 2
KILLS ?= 100
VENV := .venv
READY := $(VENV)/ready
TORCH := torch==2.14.1 torchvision==0.29.1
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.PHONY: help setup demo photos words study report test lint torture ui pull walkthrough lock clean distclean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /make \1	/' | expand -t 18

setup: $(READY)  ## the virtual environment, pinned

demo: $(READY)  ## the main job: from the synthetic data to Table 2 (a second call does nothing)
	@mkdir -p .snakemake && touch .snakemake/before
	snakemake --cores $(CORES) --config profile=demo -- results/table2.csv results/table2.md
	@[ results/table2.md -nt .snakemake/before ] || echo "Nothing to do: Table 2 is up to date, in results/table2.md"

photos: $(READY)  ## real photos: RmLR and its ablations on 579 photos, five folds (docs/photos.md). HAVE=FOLDER: what you have
	@rmlr doctor --profile photos --timeout 0 || true
	snakemake --cores $(CORES) --config profile=photos $(if $(HAVE),have=$(HAVE)) -- results/photos/real_photos.md \
		results/photos/figures/real_photos{,_loss,_remining,_text,_words,_upt,_boxes}/figure.png

words: $(READY)  ## a drawn world of near-synonyms, in which text could help: seven runs, five seeds (docs/words.md)
	snakemake --cores $(CORES) --config profile=words -- results/words/near_synonyms.md \
		results/words/figures/near_synonyms{,_rows,_confusions,_text}/figure.png

study: $(READY)  ## the whole study of the profile in params.yaml: nine tables and the figures
	snakemake --cores $(CORES)

report: study  ## the whole study, then all of it as one HTML page, report.html
	snakemake --report report.html

test: lint  ## style, types, import contract and tests
	OMP_NUM_THREADS=1 pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

lint: $(READY)  ## style, types and import contract
	ruff check . && ruff format --check .
	snakefmt --check Snakefile workflow
	pyright
	lint-imports

torture: $(READY)  ## kill a very small study at random, KILLS=100 times, in either engine: all results must be as undisturbed
	python -m tests.torture $(KILLS)

ui: $(READY)  ## MLflow's web interface, on this machine only: prints links to runs, tables and comparisons
	python workflow/ui.py

pull: $(READY)  ## results of this commit from DVC's remote, verified, marked as current in both engines. TARGETS=...
	@python workflow/pull.py $(TARGETS)

walkthrough: $(READY)  ## docs/walkthrough.md: run its code on the demo's results and update output and pictures
	python workflow/walkthrough.py

lock: $(READY)  ## write requirements.lock from pyproject.toml
	@pip install -q uv
	python workflow/lock.py

clean:  ## remove results and temporary files of tests and tools; keeps .venv, MLflow's and DVC's stores
	rm -rf results/*/ .snakemake dvc_plots tests/output .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## also remove .venv, MLflow's and DVC's stores
	rm -rf $(VENV) *.egg-info mlflow.db* mlruns mlartifacts .dvc/cache .dvc/tmp

# Everything except torch by hash; then torch, which may not change any of these; then this package.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"python 3.11 or later is needed, {sys.version} found")'
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	@echo "set-up in $(VENV): pinned packages, then torch"
	@pip install -qq --no-input --require-hashes --no-deps -r requirements.lock
	@sed -E '/^ *--hash/d; s/ *\\$$//' requirements.lock > $(VENV)/constraints.txt
	@pip install -qq --no-input -c $(VENV)/constraints.txt $(TORCH)
	@pip install -qq --no-input --no-deps --no-build-isolation -e .
	@touch $@
