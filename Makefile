# `make demo` shows Cutout at work; `make test` runs every test. Both make their own virtual environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
SOURCES := server client gateway common tests benchmarks examples training tools hatch_build.py

# Programs start by the hundred in the suite: what one of them has compiled is there for the others, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test fuzz check format site bench serve train clean constraints
.DEFAULT_GOAL := help

help:
	@echo "make demo    start everything, segment real photographs, look into out/"
	@echo "make test    run the whole suite (PYTEST='-m \"not slow\"' for the quick part)"
	@echo "make fuzz    made-up requests for minutes, over REST and gRPC"
	@echo "make check   ruff, mypy --strict, buf lint, format and breaking, the documentation as a site"
	@echo "make site    the documentation as a site, on http://127.0.0.1:8000"
	@echo "make train   train the built-in model's network (PHOTOGRAPHS='FOLDER ...' MINUTES=120 DECAY=1500 JUDGE=1200), see training/README.md"
	@echo "make bench   measure (BENCH=--quick for a glance); make serve   run the server; make clean   remove what was made"

$(UV):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Cutout needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

# uv installs the same wheels as pip, many times faster.
$(VENV)/.demo: $(UV) pyproject.toml constraints.txt hatch_build.py $(wildcard protos/cutout/v1/*.proto)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet -c constraints.txt -e '.[builtin,gateway,photos]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

node_modules/.package-lock.json: package.json
	npm install --no-package-lock --no-audit --no-fund --silent
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# Three processes of one thread each, for two cores: most tests wait more than they compute, and small models gain nothing by threads.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

fuzz: $(VENV)/.dev
	FUZZ_SECONDS=120 FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest tests/adversarial/test_fuzz_rest.py tests/test_fuzz.py $(PYTEST)

check: $(VENV)/.dev node_modules/.package-lock.json
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python tools/stage_googleapis.py build/googleapis
	npx buf lint
	npx buf format --diff --exit-code protos
	sh tools/buf_breaking.sh
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

site: $(VENV)/.dev node_modules/.package-lock.json
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: $(VENV)/.dev node_modules/.package-lock.json
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
	npx buf format -w protos

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py $(BENCH)

# Above these sizes glibc returns memory at once and asks for it anew: a step of training then takes three to five times as long.
TRAINING := MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=536870912 $(BIN)/python training
MINUTES ?= 120
DECAY ?= 1500
JUDGE ?= 1200

train: $(VENV)/.dev
	$(if $(PHOTOGRAPHS),,$(error PHOTOGRAPHS names the folders of photographs; training/README.md describes them))
	$(TRAINING)/prepare.py --photographs $(PHOTOGRAPHS) --out build/training/pictures
	$(TRAINING)/train.py --pictures build/training/pictures --out build/training --minutes $(MINUTES)
	$(TRAINING)/train.py --pictures build/training/pictures --out build/training --decay $(DECAY)
	$(TRAINING)/judge.py --pictures build/training/pictures --weights build/training/finished.pt --out build/training/judged.pt --steps $(JUDGE)
	$(TRAINING)/export.py --weights build/training/judged.pt --out build/training/network.onnx

serve: $(VENV)/.demo
	$(BIN)/cutout serve

constraints: $(UV)
	$(UV) pip compile --quiet --no-emit-index-url --no-annotate --no-header --upgrade --extra dev pyproject.toml -o constraints.txt
	echo "uv==$$($(UV) --version | cut -d' ' -f2)" >> constraints.txt

clean:
	rm -rf $(VENV) build dist out node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmarks/out
	find protos -name '*_pb2*.py*' -delete -o -name '*.binpb' -delete
