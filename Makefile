PYTHON ?= python3
BIN = .venv/bin

.PHONY: help dev test asan tsan bench lint format soak clean

help:  # this list
	@sed -n 's/^\([a-z]*\):[^#]*# *\(.*\)/\1: \2/p' Makefile

dev: .venv/dev  # an editable build in .venv
.venv/dev: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "setuptools>=77" "cython>=3.1" scipy-openblas32 ruff mypy "clang-format>=20,<21"
	$(BIN)/pip install -q --no-build-isolation -e ".[test,images,plot]"
	touch $@

test: dev  # the suite, and the C tests
	$(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/pytest -q
	PYTHON=$(BIN)/python bash tests/c/run.sh plain

asan: dev  # C tests under the address and undefined-behaviour sanitizers
	PYTHON=$(BIN)/python bash tests/c/run.sh asan

tsan: dev  # C tests under the thread sanitizer, on plain pthreads
	PYTHON=$(BIN)/python bash tests/c/run.sh tsan

bench: dev  # the measured table of benchmarks/README.md
	$(BIN)/fastnet bench --markdown benchmarks/README.md

lint: dev  # style, types, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastnet
	git ls-files '*.c' '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

format: dev  # what lint would find, as far as it can be put right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.c' '*.h' | xargs $(BIN)/clang-format -i

soak: dev  # the large counts: hours
	for script in tests/soak/*.py; do $(BIN)/python $$script || exit 1; done
	PYTHON=$(BIN)/python TESTS=test_vmath SWEEP=full bash tests/c/run.sh plain

clean:  # all that was built
	rm -rf build dist .venv *.egg-info fastnet/*.so fastnet/LICENSE-openblas.txt
