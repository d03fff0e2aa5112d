# The two commands of the README, and what a developer runs. Everything happens in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: readme demo test lint validate calibration bench clean

demo: $(BIN)/tilesim
	$(BIN)/tilesim run --arch hbm-npu --model llama-3.2-1b --phase prefill --prompt 512 --batch 1
	$(BIN)/tilesim run --arch hbm-npu --model llama-3.2-1b --phase decode --context 2048 --batch 1

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/python .ci/typecheck.py

$(BIN)/tilesim: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $(BIN)/tilesim

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(INSTALLED)

validate: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto -m slow
	$(BIN)/tilesim validate all

# Fits the constants of every GPU architecture to the measured rows under REFERENCE and fails if the shipped ones differ.
calibration: $(INSTALLED)
	$(BIN)/python -m tilesim.validation.calibrate_gpu $(REFERENCE) --check

bench: $(INSTALLED)
	$(BIN)/python -m tilesim.validation.bench

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

readme: $(INSTALLED)
	$(BIN)/python .ci/readme.py --update
