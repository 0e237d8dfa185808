# Two commands: `make demo` shows the whole archive at work, `make test` checks everything.
# Both install what a fresh Debian machine lacks; the one list of packages is PACKAGES below.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Outside the checkout, so that a clean checkout of the same machine builds only our own crates again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/firn/target

# rocksdb: librocksdb-dev, and libclang for its bindings; nix-bin: the demo's cache and the end-to-end tests;
# zstd, xz-utils and curl: the demo's own steps; iproute2 and faketime: tests on cut networks and with clocks that are off;
# systemd: systemd-analyze judges the unit of the storage node.
PACKAGES := build-essential pkg-config libclang-dev librocksdb-dev nix-bin curl xz-utils zstd iproute2 faketime systemd

BIN := $(CARGO_TARGET_DIR)/release
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# The `rocksdb` crate in Cargo.toml speaks the C interface of RocksDB 7.8 and is checked against the headers it
# is built with. Where the distribution has that version, it is linked; elsewhere it is built from source.
ROCKSDB_HEADER := /usr/include/rocksdb/version.h
ROCKSDB_CHECK = grep -qs 'define ROCKSDB_MAJOR 7' $(ROCKSDB_HEADER) && grep -qsE 'define ROCKSDB_MINOR [89]' $(ROCKSDB_HEADER)
# Recipes source this: the choice can only be made once the packages are installed.
define WITH_ROCKSDB
if $(ROCKSDB_CHECK); then \
  export ROCKSDB_LIB_DIR="$$(dirname "$$(ls /usr/lib/*/librocksdb.so /usr/lib/librocksdb.so 2>/dev/null | head -n 1)")" ROCKSDB_INCLUDE_DIR=/usr/include; \
else \
  export CXXFLAGS="$${CXXFLAGS:-} -include cstdint"; \
  [ -d "$(CARGO_TARGET_DIR)/release/deps" ] || echo "RocksDB 7.8 is not to be had from this distribution: building it from source takes about 20 minutes on two cores, once."; \
fi
endef

.PHONY: help packages build demo test format check-format lint unit

help: ## Say what there is to do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

packages: ## Install the system packages that are missing
	@missing=; for package in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  command -v apt-get >/dev/null || { echo "please install the counterparts of:$$missing"; exit 1; }; \
	  echo "installing:$$missing"; \
	  $(SUDO) apt-get update -qq; \
	  for package in $$missing; do \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends "$$package" >/dev/null || \
	    { [ "$$package" = nix-bin ] && echo "nix-bin cannot be had: going on without the real Nix client"; }; done; \
	fi; \
	command -v cargo >/dev/null || { echo "please install a Rust toolchain: https://rustup.rs"; exit 1; }

build: packages ## Build all programs in release mode
	@$(WITH_ROCKSDB); echo "building (a few minutes the first time) into $(CARGO_TARGET_DIR)"; \
	cargo build --release --locked --bins --workspace

demo: build ## The main job: publish, fetch, lose nodes, repair, recover
	@deploy/demo/run.sh "$(BIN)"

check-format:
	cargo fmt --all --check

lint:
	@$(WITH_ROCKSDB); cargo clippy --release --locked --workspace --all-targets -- -D warnings

# Each package with a program has tests beside its sources, so this builds all programs too: with what tests need of their
# libraries, which `build` does without, and would make everything twice. Examples are the benchmarks, and are linted only.
unit:
	@$(WITH_ROCKSDB); cargo test --release --locked --workspace --tests --no-fail-fast

test: packages check-format lint unit ## Format, lints, and every test

format: ## Format the code
	cargo fmt --all
