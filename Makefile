# Two commands do everything: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

# CPU builds of torch: of equal versions pip takes "+cpu", wherever it finds it. Without it PyPI's build
# brings gigabytes of CUDA. An index that cannot be reached is skipped.
TORCH_CPU := --extra-index-url https://download.pytorch.org/whl/cpu --retries 2

# Large pages for large arrays: without them half of a CPU's time goes into page faults (BUILD_NOTES.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo demo-full demo-match rehearse test pythons lint types docs clean

demo: .venv/run
	$(BIN)/flashjax run --config configs/nano.py --workdir runs/nano

demo-full: .venv/run
	$(BIN)/flashjax run --config configs/nano_full.py --workdir runs/nano_full

# What matching wins back where guidance alone loses much: one step, without captions.
MATCH := ablate --config configs/ablation_nano.py:blank --workdir runs/blank
demo-match: .venv/run
	$(BIN)/flashjax $(MATCH) --only 1-shifted_heads-t0.1-p0.02-s0
	$(BIN)/flashjax $(MATCH) --table

rehearse: .venv/test
	$(BIN)/python launch/rehearse.py --workdir build/rehearsal

test: .venv/test lint types
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

pythons:
	.ci/pythons

lint: .venv/test
	$(BIN)/ruff check flashjax configs launch tests docs
	$(BIN)/ruff format --check flashjax configs launch tests docs

types: .venv/test
	$(BIN)/mypy

.venv/run: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv/test: .venv/run requirements-test.txt
	$(BIN)/pip install --quiet $(TORCH_CPU) torch==2.13.0
	$(BIN)/pip install --quiet --requirement requirements-test.txt
	touch $@

docs: .venv/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf .venv runs build *.egg-info
