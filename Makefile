# The commands of this repository. They need git, make and a python3 (3.11 or newer) with venv; everything else is installed into .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test docs browser lab phases clean

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.stamp
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Runs a command and says how long it took.
TIMED = @timed() { local start=$$SECONDS; echo "=== $$*"; "$$@" && echo "=== $$((SECONDS - start)) s"; }; timed

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "This needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about 1.6 GB with a CPU build of torch, a few minutes"
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## train on the embedded strips and show defects found, in under 5 minutes
	@mkdir -p runs/00_quickstart
	@# The kernel's training bar reaches this terminal only as text, and tqdm chooses text where a variable starts with SPYDER.
	$(TIMED) env SPYDER_TEXT_PROGRESS=1 papermill nbs/phases/00_quickstart.ipynb runs/00_quickstart/00_quickstart.ipynb --cwd . --stderr-file /dev/stderr
	@python -c "import pandas; table = pandas.read_csv('runs/00_quickstart/metrics.csv'); print(); print(table.to_string(index=False, float_format='{:.3f}'.format))"
	@echo
	@echo "executed notebook  $(CURDIR)/runs/00_quickstart/00_quickstart.ipynb"
	@echo "heatmaps           $(CURDIR)/runs/00_quickstart/heatmaps/"

test: $(STAMP)  ## check that the package equals its notebooks, run the notebooks, run the tests
	@failed=0; step() { local start=$$SECONDS; echo "=== $$*"; "$$@" || failed=1; echo "=== $$((SECONDS - start)) s"; }; \
	step pytest tests/test_style.py; \
	step nbdev-test nbs --timing; \
	step pytest --ignore=tests/test_style.py --durations=15; \
	exit $$failed

docs: $(STAMP)  ## build the README and the site in _docs
	$(TIMED) python tools/docs.py readme
	$(TIMED) python tools/docs.py site

browser: $(STAMP)  ## try the built site and the explorers in Chromium, where it is installed
	@if ! { command -v chromium || command -v google-chrome; } >/dev/null || ! command -v chromedriver >/dev/null; then \
	echo "make browser: skipped, no Chromium with chromedriver on PATH; Debian: apt-get install chromium chromium-driver"; exit 0; fi; \
	python -c 'import selenium' 2>/dev/null || python -m pip install --quiet -c constraints.txt -e '.[browser]' || exit 1; \
	if [ ! -f _docs/index.html ] || [ -n "$$(find nbs tools CONTRIBUTING.md -newer _docs/index.html \( -name '*.ipynb' -o -name '*.css' -o -name '*.py' -o -name '*.md' \) -print -quit)" ]; \
	then python tools/docs.py site || exit 1; fi; \
	pytest tests/browser.py -s --durations=5

lab: $(STAMP)  ## open the notebooks in JupyterLab
	jupyter lab nbs

phases: $(STAMP)  ## execute the experiments; results/ keeps their numbers, so only missing runs are trained
	@# For example make phases PARAMETERS='--smoke --only 02'; recon_ad phases --help lists the rest.
	recon_ad phases $(PARAMETERS)

clean:  ## delete what these commands made, the environment included; results/ stays
	rm -rf $(VENV) runs _proc _docs build dist recon_ad.egg-info nbs/sidebar.yml .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
