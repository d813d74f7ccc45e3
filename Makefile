# Two commands on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
# LLVM 22 is looked for at LLVM_SYS_221_PREFIX, in the distribution's place, and through llvm-config-22.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where it is not in the place that .cargo/config.toml names, cargo has to be told.
llvm := $(shell scripts/llvm-prefix.sh)
ifneq ($(llvm),)
ifneq ($(llvm),/usr/lib/llvm-22)
export LLVM_SYS_221_PREFIX := $(llvm)
endif
endif

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## Install what is missing: LLVM 22; ptxas and fatbinary into .tools/ (optional). demo and test do it first.
	@scripts/setup.sh

.PHONY: demo
demo: setup ## Compile a small layer, run it on this CPU and show what happened.
	@cargo build --release --locked --package moec
	@scripts/demo.sh

.PHONY: test
test: setup ## Run the tests, of trials on many specs a sample. Needs no GPU and no network; what is skipped is named at the end.
	@scripts/fetch_engine.sh tvm-ffi
	@scripts/test.sh

.PHONY: test-all
test-all: setup ## Run every test, without sampling.
	@scripts/fetch_engine.sh tvm-ffi
	@scripts/test.sh all

.PHONY: test-quick
test-quick: setup ## Run the tests that take seconds.
	@scripts/test.sh quick

.PHONY: test-engines
test-engines: setup ## Run the examples of engines, of which `test` runs the light ones; what is absent is skipped by name.
	@scripts/fetch_engine.sh tvm-ffi onnxruntime jax
	@cargo build --locked --package moec
	@scripts/test_engines.sh

.PHONY: test-torch
test-torch: setup ## Run the tests in PyTorch and transformers, which it installs into .tools/torch (1.6 GB).
	@scripts/fetch_torch.sh
	@cargo build --locked --package moec
	@scripts/test_torch.sh

.PHONY: test-browser
test-browser: setup ## Open the pages of `moec route` in headless Chromium; skipped by name where there is none.
	@cargo build --locked --package moec
	@scripts/test_browser.py target/debug/moec

.PHONY: pictures
pictures: setup ## Draw the pictures of README.md from what moec prints.
	@cargo build --locked --package moec
	@scripts/pictures.py target/debug/moec

# Its configuration classes need no torch; where torch is on PYTHONPATH, blocks are run as well.
TRANSFORMERS := transformers==5.24.0

.PHONY: survey
survey: setup ## Give every MoE configuration of transformers to `moec import`, and print what became of each. Needs the network.
	@cargo build --locked --package moec
	@python3 -c 'import transformers' 2> /dev/null || test -d .tools/transformers \
	    || python3 -m pip install --quiet --target .tools/transformers '$(TRANSFORMERS)'
	@PYTHONPATH="$(CURDIR)/.tools/transformers:$${PYTHONPATH:-}" scripts/survey.py target/debug/moec

.PHONY: gpu-kit
gpu-kit: setup ## Make target/gpu-kit: a folder that checks and times layers on a machine with an NVIDIA GPU and nothing but its driver.
	@cargo build --release --locked --package moec --package moec-gpu-kit
	@scripts/gpu_kit.sh

.PHONY: wheel
wheel: setup ## Make target/wheel/moec-*.whl: moec with LLVM inside, for any x86-64 Linux with glibc 2.28. Needs the network the first time.
	@scripts/wheel.sh

.PHONY: test-wheel
test-wheel: wheel ## Install the wheel into an empty environment here, and in bare Debian 11 and 12; skipped by name without debootstrap.
	@scripts/test_wheel.sh

.PHONY: fmt
fmt: ## Format the Rust code.
	cargo fmt --all

.PHONY: lint
lint: setup ## Check formatting, and clippy and the documentation with warnings denied.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

.PHONY: bench
bench: setup ## Run the benchmarks of the compiler and the runtime.
	cargo bench --locked --package moec --package moec-runtime

# Longer lists than fit an evening: OPTIONS='--layers qwen3-30b-a3b --tokens 1,16,128'.
.PHONY: bench-host
bench-host: setup ## Measure layers on this CPU beside ggml and PyTorch, into runtime/results/. Needs an idle machine.
	@cargo build --release --locked --package moec
	@cargo build --release --locked --package moec --example serve
	@scripts/bench_host.py $(OPTIONS)

.PHONY: clean
clean: ## Remove what was built; .tools/ stays.
	cargo clean
