# Two commands for everyone: `make demo` and `make test`. Each makes .venv if needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick lint clean

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/python -m dflash_mlx.bench.demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

quick: .venv/ready
	$(BIN)/python -m pytest -m 'not slow'

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build dist *.egg-info
