# `make train` and `make test` are all that a fresh machine needs: Python 3.10 to 3.13, make, git, and
# a package index. Each creates .venv, installs into it, and runs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEER := .venv-peer/bin
# Training runs write here.
RUNS ?= runs

.PHONY: help train test lint types bench torture fuzz parity extras gpu docs clean

help:
	@echo "make train    train the default robot on the CPU, evaluate it, film it"
	@echo "make test     lint, types and tests"
	@echo "make bench    the benchmarks, peers beside us (long)"
	@echo "make torture  a training killed 50 times, one rank of many 20 times, and one of 100,000 iterations (long)"
	@echo "make fuzz     wrong input of every kind, by the thousand (long)"
	@echo "make parity   the same numbers as rsl_rl 5.5.1, row by row"
	@echo "make extras   every extra alone in a fresh environment (long, gigabytes)"
	@echo "make gpu      tests that need a CUDA device"
	@echo "make docs     build the documentation into site/, run every code block in it"

# torch first and pinned: what depends on it must not bring a build of its own choice.
$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gymnasium,video]'
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-peer/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peer
	$(PEER)/python -m pip install --quiet --constraint constraints.txt torch
	$(PEER)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' \
		'rsl-rl-lib==5.5.1' 'stable-baselines3==2.9.2' 'envpool==1.2.5'
	touch $@

train: $(VENV)/base
	$(BIN)/sim-rl train --sim mujoco --task HalfCheetah --runs-root $(RUNS)
	$(BIN)/sim-rl eval "$$(ls -td $(RUNS)/HalfCheetah/*/ | head -n 1)" --sim gymnasium --episodes 10

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -n auto --dist loadfile

bench: .venv-peer/installed
	$(PEER)/python benchmarks/startup.py
	$(PEER)/python benchmarks/simulation.py
	$(PEER)/python benchmarks/learner.py --growth envs networks horizon
	$(PEER)/python benchmarks/adapters.py gymnasium
	$(PEER)/python benchmarks/time_to_reward.py
	$(PEER)/python benchmarks/learning.py
	$(PEER)/python benchmarks/sim_to_sim.py
	$(PEER)/python benchmarks/distributed.py
	$(PEER)/python benchmarks/simulators.py gymnasium-pendulum gymnasium-halfcheetah mujoco-halfcheetah
	$(PEER)/python benchmarks/tables.py

torture: $(VENV)/dev
	$(BIN)/python benchmarks/torture.py --kills 50
	$(BIN)/python benchmarks/faults.py --kills 20
	$(BIN)/python benchmarks/long_run.py

fuzz: $(VENV)/dev
	$(BIN)/python benchmarks/fuzz.py --cases 1000

parity: .venv-peer/installed
	PARITY_REPORT=docs/parity.md $(PEER)/python -m pytest tests/parity -n auto

extras:
	$(PYTHON) tests/packaging/try_extras.py

gpu: .venv-peer/installed
	$(PEER)/python -m pytest -m gpu

$(VENV)/docs: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# The variable silences the theme's advertisement of its successor.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest tests/docs

clean:
	rm -rf .venv .venv-peer build dist .mypy_cache .ruff_cache .pytest_cache
