# Two commands do everything on a fresh Debian 12 machine with Python 3.11 or 3.12:
#   make demo   sets up, films a phantom, reconstructs it, holds it against its CT
#   make test   sets up and passes the tests, lint, types and import floors
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/demo
# torch==2.13.0 is named so that pip does not fetch gigabytes of CUDA packages; on a CUDA
# workstation: make demo TORCH=torch
TORCH ?= torch==2.13.0

.PHONY: demo quick test check-system clean

demo: $(VENV)/.ready
	$(BIN)/endorecon demo $(OUT)

quick: $(VENV)/.ready
	$(BIN)/endorecon demo $(OUT)-quick --quick

test: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q

$(VENV)/.ready: pyproject.toml | check-system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH) -e .
	touch $@

$(VENV)/.ready-test: pyproject.toml | check-system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH) -e ".[test,desktop,web]"
	touch $@ $(VENV)/.ready

# Open3D and PyVista link these at import; a slim image lacks them.
check-system:
	@missing=""; for lib in libGL.so.1 libX11.so.6 libgomp.so.1 libEGL.so.1; do \
	  PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q $$lib || missing="$$missing $$lib"; done; \
	if [ -n "$$missing" ]; then \
	  echo "system libraries missing:$$missing"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy libgl1 libx11-6 libgomp1 libegl1; \
	  else echo "run: sudo apt-get install libgl1 libx11-6 libgomp1 libegl1"; exit 1; fi; fi
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy python3-venv; \
	  else echo "run: sudo apt-get install python3-venv"; exit 1; fi; }
	@command -v g++ >/dev/null || echo "no g++: the plain torch path runs, about 20 times slower (apt-get install g++)"

clean:
	rm -rf $(VENV) build *.egg-info
