# Two commands for everyone: `make demo` and `make test`. Each makes .venv if needed.
PYTHON ?= python3
BIN := .venv/bin

# Metal kernels are tested on an emulator that needs clang (tests/emulator).
CLANG := clang++-19
# The server's page is tested in a browser (tests/equipment/chromium.py).
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo test quick full changed lint docs clang chromium clean

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/python -m dflash_mlx.bench.demo

test: lint clang chromium
	$(PYTEST)

quick: .venv/ready
	$(PYTEST) -m 'not slow'

# With the whole grids (marked `full`); their digests go to tests/full.json.
full: lint clang chromium
	$(PYTEST) --full all

# Nothing but the whole grids of what has changed since they passed.
changed: .venv/ready clang
	$(PYTEST) --full changed

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/ready
	$(BIN)/python -m dflash_mlx.cli.manual > docs/cli.md

# Debian's clang where root can install it; elsewhere the kernel tests are skipped.
clang:
	@command -v $(CLANG) >/dev/null || { test "$$(uname -sm)" = "Linux x86_64" \
	  && test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && (apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install \
	  -y --no-install-recommends clang-19) >/dev/null 2>&1; } \
	  || echo "no $(CLANG): tests of Metal kernels are skipped" >&2

# Debian's Chromium likewise; elsewhere the tests of the page are skipped.
chromium:
	@for name in $(BROWSERS); do command -v $$name && break; done | grep -q . || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && (apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install \
	  -y --no-install-recommends chromium) >/dev/null 2>&1; } \
	  || echo "no Chromium: tests of the server's page are skipped" >&2

clean:
	rm -rf .venv build dist *.egg-info
