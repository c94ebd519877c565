# Every command once. On a fresh machine `make run` and `make test` do it all: they need Rust, Python 3.11 with pip, make
# and a C compiler.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
HOST ?= 127.0.0.1
PORT ?= 5001
MODEL ?= onnx/blip2-shapes
export MODEL # by the environment, so that spaces in it stay what they are
# Where the checkpoint and the bundles of `bench-compare` lie (30 GB), the tokenizer that it gets (default: a made-up one),
# and further arguments of `python -m compare run`.
BENCH_DIR ?= .bench
BENCH_TOKENIZER ?=
BENCH_ARGS ?=
QUICK ?=

VENV := .venv
CLIENTS := .venv-clients
DEPLOY := .venv-deploy
MLFLOW := .venv-mlflow
AZURE := .venv-azure
AUDIT := .venv-audit
# As the exporter's image has it.
IMAGE := .venv-image
TOOLS := target/tools
GPU := .venv-gpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# Printed as it stands: the reader's shell fills in the picture.
ASK = curl -s http://127.0.0.1:$(PORT)/score -H "Content-Type: application/json" -d "{\"input_data\": {\"columns\": [\"image\", \"text\"], \"data\": [[\"$$(base64 < tests/fixtures/scene.png | tr -d "\\n")\", \"Question: what color is the star? Answer:\"]]}}"

# The assembler in the JPEG decoder needs nasm at build time; without it the pixels are the same, the decoding is slower.
FEATURES := $(if $(shell command -v nasm),--features jpeg-simd)

# The reference's goldens lie beside the repository. Exporting the model behind them takes seconds, and is done again when the
# exporter has changed.
SHARED := ../shared/data
GOLDEN := $(SHARED)/golden
EXPORTER := $(wildcard export/blip2_export/*.py export/blip2_export/*/*.py export/blip2_export/*/*/*.py)

# Python beside the exporter's, seen from export/.
LINTED := ../tests/clients ../tests/docker ../tests/deploy ../deploy ../benches

# The images say what they were built from. The context has no history, so they are told.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
REVISION = $(shell git rev-parse HEAD 2> /dev/null)$(shell git diff --quiet HEAD 2> /dev/null || echo -modified)
DOCKER_BUILD = docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) $(DOCKER_ARGS)

.PHONY: help setup onnxruntime-gpu venv-gpu build run model test test-rust test-python test-clients test-deploy test-azure test-mlflow \
    test-gpu-bundles goldens docker docker-cuda docker-export docker-bases docker-test sbom audit test-audit check fmt bench bench-compare \
    verify gpu-check train clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: .ort/libonnxruntime.so ## Get ONNX Runtime into .ort/

onnxruntime-gpu: .ort-gpu/libonnxruntime.so ## Get it with CUDA 13 into .ort-gpu/ (2 GB); TENSORRT_DIR=… adds TensorRT 10
	@if [ -n "$(TENSORRT_DIR)" ]; then export/link_tensorrt "$(TENSORRT_DIR)" .ort-gpu; fi

venv-gpu: $(GPU)/bin/reference ## Make the Python environment for verify on a GPU, in .venv-gpu/ (6 GB)

build: setup ## Build the release binary
	cargo build --release --locked $(FEATURES)

run: build ## Serve the tiny bundle on 127.0.0.1:5001
	@printf '\nAsk it about tests/fixtures/scene.png, from another shell in this folder:\n\n  %s\n\n' '$(ASK)'
	@ORT_DYLIB_PATH=.ort/libonnxruntime.so exec target/release/blip2 serve --model "$$MODEL" --host $(HOST) --port $(PORT)

# What was typed after `make` reaches the shell by the environment, so that spaces and quotes stay what they are. A variable
# of the same name that was not typed there means something else.
option = $(if $(filter command,$(origin $(1))),$(if $($(1)),--$(2)="$$$(1)"))

model: $(BIN)/pytest ## Make a bundle of a checkpoint: CHECKPOINT=id or folder [PRECISION=int8] [TARGET=cpu] [REVISION=…] [OUTPUT=…] [FORCE=1]
	@[ -n "$$CHECKPOINT" ] || { printf '%s\n' \
	    'usage: make model CHECKPOINT=Salesforce/blip2-opt-2.7b [PRECISION=int8] [TARGET=cpu] [REVISION=main] [OUTPUT=DIR] [FORCE=1]' \
	    '  CHECKPOINT  an id of the hub, or a folder' \
	    '  PRECISION   fp32, int8 or int4 for cpu; fp16, int8 or int4 for cuda and tensorrt' \
	    '  OUTPUT      default: onnx/NAME-PRECISION; FORCE=1 replaces what is there' >&2; exit 2; }
	@PYTHONPATH=export $(BIN)/python -m blip2_export model --checkpoint="$$CHECKPOINT" $(call option,PRECISION,precision) \
	    $(call option,TARGET,target) $(call option,REVISION,revision) $(call option,OUTPUT,output) $(if $(FORCE),--force)

test: test-rust test-python test-clients test-deploy test-azure test-mlflow test-gpu-bundles $(if $(wildcard $(GOLDEN)),goldens) ## Run every test, `goldens` too where ../shared/data/golden lies

test-rust: setup
	cargo test --locked $(FEATURES)

test-python: $(BIN)/pytest
	cd export && ../$(BIN)/pytest

test-clients: setup $(CLIENTS)/bin/pytest ## Ask the service with the openai and tritonclient packages, and with schemathesis
	cargo build --locked $(FEATURES)
	$(CLIENTS)/bin/pytest -q tests/clients

test-deploy: setup $(DEPLOY)/bin/pytest ## Check manifests, dashboard and alerts, with a real Prometheus where Debian's is installed
	cargo build --locked $(FEATURES)
	BLIP2_BINARY=target/debug/blip2 $(DEPLOY)/bin/pytest -q -rs tests/deploy/kubernetes tests/deploy/monitoring

test-azure: $(AZURE)/bin/pytest ## Check the files for Azure ML with its real SDK
	$(AZURE)/bin/pytest -q -rs tests/deploy/azure --ignore tests/deploy/azure/test_local_endpoint.py

test-mlflow: $(MLFLOW)/bin/pytest ## Register the tiny bundle with the real MLflow, into a database and through a server
	$(MLFLOW)/bin/pytest -q tests/deploy/mlflow

test-gpu-bundles: setup $(BIN)/pytest ## Export the tiny model for GPUs, and run it on the CPU, whose kernels can do that too
	rm -rf .gpu-bundles
	for kind in cuda-fp16 cuda-int8 tensorrt-fp16; do \
	    (cd export && ../$(BIN)/python -m blip2_export export --checkpoint ../onnx/checkpoint --target $${kind%-*} \
	        --precision $${kind#*-} --output ../.gpu-bundles/$$kind) && \
	    BLIP2_TEST_BUNDLE=.gpu-bundles/$$kind cargo test --locked $(FEATURES) --test blip2 providers:: -- --include-ignored || exit 1; done

goldens: setup .goldens/bundle/manifest.json ## Compare the runtime with the reference's answers in ../shared/data/golden
	cargo test --locked $(FEATURES) --lib text:: -- --ignored
	BLIP2_REFERENCE_BUNDLE=.goldens/bundle cargo test --locked $(FEATURES) --test blip2 goldens:: -- --ignored --nocapture

docker: ## Build the image that serves on CPUs, blip2 (15 minutes from nothing)
	$(DOCKER_BUILD) --target cpu --tag blip2 .

docker-cuda: ## Build the one that serves on NVIDIA GPUs, blip2:cuda; DOCKER_ARGS="--build-arg TENSORRT=IMAGE" adds TensorRT
	$(DOCKER_BUILD) --target cuda --tag blip2:cuda .

docker-export: ## Build the one that exports a checkpoint, blip2-export
	$(DOCKER_BUILD) --target export --tag blip2-export .

docker-bases: ## Make stand-ins for the public base images, where no image registry is reached (root, debootstrap)
	tests/docker/make_bases

docker-test: $(BIN)/pytest $(DEPLOY)/bin/pytest $(AZURE)/bin/pytest ## Test the images blip2 and blip2-export in a Docker engine
	BLIP2_REQUIRE_DOCKER=1 $(BIN)/pytest -q -rs --rootdir tests/docker tests/docker
	BLIP2_REQUIRE_DOCKER=1 $(DEPLOY)/bin/pytest -q -rs tests/deploy/monitoring/test_compose.py
	BLIP2_REQUIRE_DOCKER=1 $(AZURE)/bin/pytest -q -rs tests/deploy/azure/test_local_endpoint.py tests/deploy/azure/test_notebook.py

sbom: setup $(TOOLS)/bin/cargo-cyclonedx $(AUDIT)/bin/pytest $(IMAGE)/bin/numpy-config ## Write the bills of materials and licences of the images into target/sbom/
	deploy/audit/crates_bom $(TOOLS) target/sbom
	$(AUDIT)/bin/python deploy/audit/onnxruntime_bom.py --lock export/onnxruntime.lock --folder .ort --output target/sbom/onnxruntime.cdx.json
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --spec-version 1.5 --output-format JSON \
	    --output-file target/sbom/export.cdx.json $(IMAGE)/bin/python

audit: $(TOOLS)/bin/cargo-deny $(AUDIT)/bin/pytest $(IMAGE)/bin/numpy-config ## Check licences, sources and known vulnerabilities; AUDIT_ARGS=--strict: databases must answer
	$(AUDIT)/bin/python deploy/audit/audit.py --cargo-deny $(TOOLS)/bin/cargo-deny --python $(IMAGE)/bin/python $(AUDIT_ARGS)

test-audit: sbom audit ## Test the bills of materials, and that the audit finds what it is there for
	$(AUDIT)/bin/pytest -q -rs --rootdir deploy/audit deploy/audit/tests

check: setup $(BIN)/pytest ## Run the linters
	cargo fmt --check
	cargo clippy --locked --all-targets $(FEATURES) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items $(FEATURES)
	cd export && ../$(BIN)/ruff format --check . $(LINTED) && ../$(BIN)/ruff check . $(LINTED)

fmt: $(BIN)/pytest ## Format everything
	cargo fmt
	cd export && ../$(BIN)/ruff format . $(LINTED) && ../$(BIN)/ruff check --fix . $(LINTED)

bench: setup ## Run the benchmarks on the tiny bundle
	cargo bench --locked $(FEATURES)

bench-compare: build $(BIN)/reference ## Measure transformers and blip2 side by side at full size (30 min); QUICK=1: tiny
ifeq ($(QUICK),)
	cd benches && ../$(BIN)/python -m compare prepare --folder $(abspath $(BENCH_DIR)) \
	    $(if $(BENCH_TOKENIZER),--tokenizer $(abspath $(BENCH_TOKENIZER)))
	cd benches && ../$(BIN)/python -m compare run --checkpoint $(abspath $(BENCH_DIR))/checkpoint \
	    --bundles $(foreach precision,fp32 int8 int4,$(abspath $(BENCH_DIR))/$(precision)) $(BENCH_ARGS)
else
	cd benches && ../$(BIN)/python -m compare run --quick $(BENCH_ARGS)
endif

verify: $(BIN)/reference ## Compare both committed bundles with transformers (installs torch)
	cd export && ../$(BIN)/python -m blip2_export draw-shapes --output ../onnx/cases
	cd export && for bundle in blip2-shapes blip2-shapes-int8; do \
	    ../$(BIN)/python -m blip2_export verify --checkpoint ../onnx/checkpoint --bundle ../onnx/$$bundle \
	        --cases ../onnx/cases/cases.json || exit 1; done

gpu-check: setup ## Export, verify, test and bench on an NVIDIA GPU; GPU_CHECK="--quick" or other options
	@cd export && $(PYTHON) -m gpu_check $(GPU_CHECK)

train: $(BIN)/reference ## Train the tiny model anew into onnx/new-checkpoint (about an hour)
	cd export && MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 \
	    ../$(BIN)/python -m blip2_export train-shapes --output ../onnx/new-checkpoint

clean: ## Remove what was built and installed
	rm -rf target .ort .ort-gpu .goldens .gpu-bundles .gpu-check $(VENV) $(CLIENTS) $(DEPLOY) $(MLFLOW) $(AZURE) $(AUDIT) $(IMAGE) $(GPU)

.ort/libonnxruntime.so: export/onnxruntime.lock export/get_onnxruntime
	PYTHON=$(PYTHON) export/get_onnxruntime cpu .ort

.ort-gpu/libonnxruntime.so: export/onnxruntime-gpu.lock export/get_onnxruntime
	PYTHON=$(PYTHON) export/get_onnxruntime gpu .ort-gpu

.goldens/bundle/manifest.json: $(GOLDEN)/make_reference.py $(GOLDEN)/reference_model.json $(EXPORTER) | $(BIN)/pytest
	rm -rf .goldens
	$(BIN)/python $(GOLDEN)/make_reference.py checkpoint --spec $(GOLDEN)/reference_model.json \
	    --vocab $(SHARED)/opt-tokenizer --output .goldens/checkpoint
	cd export && ../$(BIN)/python -m blip2_export export --checkpoint ../.goldens/checkpoint --output ../.goldens/bundle \
	    --precision fp32

# Environments of their own, since what they hold does not agree.
$(CLIENTS)/bin/pytest: tests/clients/requirements.lock
$(DEPLOY)/bin/pytest: tests/deploy/requirements.lock
$(MLFLOW)/bin/pytest: tests/deploy/mlflow/requirements.lock
$(AZURE)/bin/pytest: tests/deploy/azure/requirements.lock
$(AUDIT)/bin/pytest: deploy/audit/requirements.lock
$(CLIENTS)/bin/pytest $(DEPLOY)/bin/pytest $(MLFLOW)/bin/pytest $(AZURE)/bin/pytest $(AUDIT)/bin/pytest:
	$(PYTHON) -m venv $(@D:/bin=)
	$(@D)/python -m pip --quiet --disable-pip-version-check install --requirement $<
	touch $@

# Each needs four minutes to build.
$(TOOLS)/bin/cargo-%: deploy/audit/install_tool
	deploy/audit/install_tool cargo-$* $(TOOLS)

# Without pip, as there.
$(IMAGE)/bin/numpy-config: export/requirements-image.lock
	rm -rf $(IMAGE)
	$(PYTHON) -m venv --without-pip $(IMAGE)
	$(PYTHON) -m pip --quiet --disable-pip-version-check --python $(IMAGE)/bin/python install --require-hashes --only-binary=:all: \
	    --requirement export/requirements-image.lock
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/pytest: $(BIN)/python export/requirements.lock
	$(PIP) install --requirement export/requirements.lock
	touch $@

$(BIN)/reference: $(BIN)/pytest export/pyproject.toml
	$(PIP) install --editable './export[reference]'
	touch $@

# An environment of its own, because onnxruntime and onnxruntime-gpu are one Python module by two names. torch brings the
# CUDA libraries but for cuRAND.
$(GPU)/bin/reference: export/requirements.lock export/onnxruntime-gpu.lock export/pyproject.toml
	$(PYTHON) -m venv $(GPU)
	grep -v '^onnxruntime==' export/requirements.lock > $(GPU)/requirements.lock
	grep -E '^(onnxruntime-gpu|nvidia-curand)==' export/onnxruntime-gpu.lock > $(GPU)/gpu.lock
	$(GPU)/bin/python -m pip --quiet --disable-pip-version-check install --requirement $(GPU)/requirements.lock \
	    $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("export/pyproject.toml", "rb"))["project"]["optional-dependencies"]["reference"])')
	$(GPU)/bin/python -m pip --quiet --disable-pip-version-check install --no-deps --require-hashes --requirement $(GPU)/gpu.lock
	$(GPU)/bin/python -m pip --quiet --disable-pip-version-check install --no-deps --editable export
	touch $@
