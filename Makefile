# All commands for users and developers. Build results go to target/ (Rust) and .cache/ (everything else);
# none of them are committed.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve quick test pictures recording live-pictures figures goals lint coverage simulate-delivery chaos \
	bench peers fuzz fuzz-socket fuzz-redis fuzz-build build \
	onnxruntime models chart reference book dist images test-images test-cluster gpu gpu-pack up down clean prerequisites

COMMA := ,
CACHE := .cache
PYTHON := $(CACHE)/venv/bin/python
DENY := $(CACHE)/bin/cargo-deny
CARGO := cargo
QUICK := target/quick/batchfleet
AUDITABLE_VERSION := 0.7.7
AUDITABLE_ROOT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/batchfleet/cargo-auditable-$(AUDITABLE_VERSION)
AUDITABLE := $(AUDITABLE_ROOT)/bin/cargo-auditable
MDBOOK_VERSION := 0.5.4
MDBOOK := $(CACHE)/mdbook-$(MDBOOK_VERSION)/bin/mdbook
LLVM_COV_TOOL := $(CACHE)/bin/cargo-llvm-cov
LIBRARY := $(CACHE)/onnxruntime/libonnxruntime.so
CERTIFICATES := $(CACHE)/certificates/ca-certificates.crt
MODELS := $(CACHE)/models
DIGITS := $(MODELS)/digits_wide/1/model.onnx
MAGIKA := $(MODELS)/magika/1/model.onnx
TEXT_MODELS := $(CACHE)/text-models
TEXT := $(TEXT_MODELS)/text/1/model.onnx
BENCH_MODELS := $(CACHE)/bench-models
CONV := $(BENCH_MODELS)/conv_small/1/model.onnx
DIGITS_TEST := $(CACHE)/digits_test.csv
SENTENCES := $(CACHE)/sentences.csv
LISTEN ?= 127.0.0.1:8080
GRPC_LISTEN ?= 127.0.0.1:8001
ADMIN_LISTEN ?= 127.0.0.1:9090
FUZZ_SECONDS ?= 60
# A Python with numpy, onnx and, for comparison and for CUDA's libraries, PyTorch.
GPU_PYTHON ?= python3
FUZZ_FLAGS = --seconds $(or $(SECONDS),$(FUZZ_SECONDS)) $(if $(SEED),--seed $(SEED))
SEEDS ?= 100000
# The commit whose programs F35 and F46 replace by the current ones: the last before the folders were rearranged. The
# current programs must work with those of every commit since 55f033a (ARCHITECTURE.md, Versions).
PREVIOUS ?= 44f6410

ORT_DYLIB_PATH ?= $(CURDIR)/$(LIBRARY)
export ORT_DYLIB_PATH

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: quick $(LIBRARY) $(if $(filter text,$(MODEL)),$(TEXT),$(DIGITS)) ## measure the gain of batching: handwritten digits, or MODEL=text
	$(QUICK) demo $(if $(filter text,$(MODEL)),\
		--model text --model-repository $(TEXT_MODELS) --sentences $(SENTENCES),\
		--model-repository $(MODELS) --digits $(DIGITS_TEST))

serve: quick $(LIBRARY) models ## serve the demo models until Ctrl-C; LISTEN=address:port
	$(QUICK) serve --listen $(LISTEN) --grpc-listen $(GRPC_LISTEN) --admin-listen $(ADMIN_LISTEN) \
		--model-repository $(MODELS) --log-format text

test: $(LIBRARY) models ## run all checks and tests
	@scripts/prerequisites.sh redis-server curl prometheus node npm chromium
	@scripts/test.sh

pictures: ## draw the boards during four incidents on a real fleet; takes 10 minutes
	@scripts/prerequisites.sh redis-server prometheus node npm chromium pngquant
	cargo build --locked --workspace --bins
	dashboards/pictures.py

figures: ## measure a real fleet: batch sizes, 5,000 clients, memory, N, lengths
	@scripts/prerequisites.sh redis-server
	cargo build --locked --workspace --bins
	cargo test --locked -p batchfleet-testkit --test fleet --test tuning --test slow_models --test lengths --test size_change -- --nocapture --test-threads 1

recording: quick $(LIBRARY) $(DIGITS) ## record the demo's output as an animated picture
	scripts/recording.py docs/pictures/demo.svg "make demo" $(QUICK) demo --model-repository $(MODELS) --digits $(DIGITS_TEST)

live-pictures: build $(LIBRARY) models ## take screenshots of the live page; takes a minute
	@scripts/prerequisites.sh chromium
	@scripts/venv.sh browser '>=3.11,<3.15' verify/browser/requirements.txt
	PYTHONPATH=verify/conformance BATCHFLEET_PROGRAMS=target/release \
		$(CACHE)/venv-browser/bin/python verify/browser/pictures.py docs/pictures

goals: build ## simulate the choice of N and of workers, and compare with the goals
	target/release/batchfleet simulate --goals

lint: $(DENY) ## formatting, lints, documentation and dependencies; warnings denied
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps
	scripts/deny.sh $(DENY)
	scripts/links.py
	scripts/names.py
	scripts/version.py --check
	scripts/size.py --check
	scripts/workflows.sh

coverage: $(LLVM_COV_TOOL) $(LIBRARY) models ## measure the line coverage of the Rust tests
	@scripts/prerequisites.sh redis-server
	scripts/coverage.sh $(LLVM_COV_TOOL)

fuzz: prerequisites ## fuzz the parsers for FUZZ_SECONDS each
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	@for target in infer_json infer_binary infer_grpc wire config settings; do \
		echo "=== $$target"; \
		(cd verify/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none --target-dir ../../$(CACHE)/fuzz \
			$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1) || exit 1; \
	done

fuzz-socket: fuzz-build ## send malformed, slow and truncated HTTP to a real gateway; SECONDS=300 SEED=1
	verify/fuzz/live/fuzz_socket.py $(FUZZ_FLAGS)

fuzz-redis: fuzz-build ## write junk into the Redis of a real fleet; SECONDS=300 SEED=1
	verify/fuzz/live/fuzz_redis.py $(FUZZ_FLAGS)

fuzz-build: prerequisites
	@scripts/prerequisites.sh redis-server
	cargo build --locked --workspace --bins

simulate-delivery: ## simulate the delivery of answers with random faults, for SEEDS seeds
	SIMULATION_SEEDS=$(SEEDS) cargo test --locked --release -p batchfleet-gateway --lib \
		dispatch::simulation

chaos: build ## inject every fault under load; ONLY=F01,F14 selects, SECONDS_EACH=60, GRPC=1 sends the loads over gRPC
	@scripts/prerequisites.sh redis-server faketime
	target/release/batchfleet-chaos $(if $(ONLY),--only $(ONLY)) \
		$(if $(SECONDS_EACH),--seconds $(SECONDS_EACH)) \
		$(if $(GRPC),--grpc) \
		$(if $(findstring F35,$(or $(ONLY),$(if $(GRPC),,F35)))$(findstring F46,$(ONLY)),--previous "$$(scripts/previous.sh $(PREVIOUS))")

bench: build $(LIBRARY) models $(CONV) $(TEXT) ## measure costs and gains; ONLY=origin,echo,gap,callers,bare,text,lengths,capacity,documents,size-change,sweep,traces,access,redis-tls,large,grpc,control SECONDS_EACH=2, BEFORE=COMMIT compares the gap with older programs
	@scripts/prerequisites.sh redis-server
	cargo build --locked --release -p batchfleet-worker --examples
	target/release/batchfleet-bench --models $(MODELS) --bench-models $(BENCH_MODELS) \
		--text-models $(TEXT_MODELS) --sentences $(SENTENCES) --digits $(DIGITS_TEST) $(if $(ONLY),--only $(ONLY)) \
		$(if $(SECONDS_EACH),--seconds $(SECONDS_EACH)) \
		$(if $(BEFORE),--previous "$$(scripts/previous.sh $(BEFORE) batchfleet batchfleet-worker)")

peers: build $(LIBRARY) models ## compare Batchfleet with Triton, KServe and MLServer over gRPC; ONLY=triton,batchfleet ROUNDS=2 SECONDS_EACH=4
	@scripts/prerequisites.sh redis-server
	@for peer in triton kserve mlserver; do \
		scripts/venv.sh peers-$$peer '>=3.11,<3.12' verify/peers/requirements-$$peer.txt || exit 1; \
	done
	verify/peers/peers.py $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SECONDS_EACH),--seconds $(SECONDS_EACH))

gpu: build $(CACHE)/venv/ready ## ask this machine's NVIDIA GPU what only a GPU can tell; ONLY=answers,full_load selects
	$(PYTHON) verify/gpu/pack.py target/gpu
	$(GPU_PYTHON) target/gpu/gpu.py $(if $(ONLY),--only $(ONLY))

gpu-pack: build $(CACHE)/venv/ready ## pack the questions of `make gpu` for a machine without network; ARCHITECTURE=90 for H100 and H200
	$(PYTHON) verify/gpu/pack.py target/gpu$(addprefix -,$(ARCHITECTURE)) --parts target/gpu-pack $(if $(ARCHITECTURE),--architecture $(ARCHITECTURE))

build: prerequisites ## build the release binaries
	$(CARGO) build --locked --release --workspace --bins

# Only the program that the demo needs, in the profile `quick` of Cargo.toml.
quick: prerequisites
	@[ -e $(QUICK) ] || echo "building $(QUICK), which takes some minutes the first time"
	cargo build --locked --profile quick -p batchfleet-cli

onnxruntime: $(LIBRARY) ## fetch ONNX Runtime's library

models: $(DIGITS) $(MAGIKA) ## generate and fetch the demo models

test-cluster: build ## run the scenarios on the cluster of KUBECONFIG; ONLY=step,scale_in ADAPTER=1 KEDA=1 OPERATOR=1 GRAFANA=1
	@scripts/prerequisites.sh prometheus openssl
	@python3 deploy/cluster/test.py $(subst $(COMMA), ,$(ONLY))

chart: ## generate the chart's schema of values and its custom resource definition
	cargo run --locked --quiet -p batchfleet-schema
	cargo run --locked --quiet -p batchfleet-controller -- crd > helm/batchfleet/charts/crds/crds/modelfleets.yaml

reference: ## generate the book's pages of flags, chart values, fields, HTTP and gRPC
	cargo build --locked --workspace --bins
	@scripts/reference.sh

book: $(MDBOOK) ## build the book with its search into target/book, and check its links and what the search finds
	@scripts/prerequisites.sh node
	scripts/links.py
	$(MDBOOK) build docs
	scripts/book_links.py target/book
	scripts/book_search.mjs target/book docs

images: build $(LIBRARY) $(CERTIFICATES) ## build the container images; LOAD=kind|k3d|minikube, PUSH=registry, TO=folder for archives, CUDA=1, CUDA12=1 for GPUs
	@deploy/images/images.sh $(if $(TO),save $(TO),build)
	@deploy/images/deliver.sh $(if $(LOAD),load $(LOAD),$(if $(PUSH),push $(PUSH),$(if $(TO),archived)))

# The programs of a release contain the list of their crates, which cargo-audit and scanners of images read. They are equal
# in all clones: they contain no paths of this machine, and cargo-auditable, whose path they depend on, is outside the clone.
dist: CARGO := $(AUDITABLE) auditable
dist: export RUSTFLAGS := --remap-path-prefix=$(CURDIR)=/batchfleet \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
dist: $(AUDITABLE) build $(LIBRARY) $(CERTIFICATES) ## make all artifacts of a release in target/dist: programs, images, chart, SBOM, digests
	@scripts/dist.sh $(or $(TO),target/dist)

test-images: images models ## test a fleet of containers from the images
	@deploy/images/test.sh

up: build $(LIBRARY) models ## start Redis, two gateways and two workers in the background
	@scripts/prerequisites.sh redis-server curl
	@deploy/local/fleet.sh up

down: ## stop the fleet of `make up`
	@deploy/local/fleet.sh down

clean: down ## remove all build results
	rm -rf target $(CACHE)

prerequisites:
	@scripts/prerequisites.sh cargo cc python3 python3-venv

# How the files above are made. The Python environment comes first, because pip fetches the others.

$(PYTHON): | prerequisites
	python3 -m venv $(CACHE)/venv

$(CACHE)/venv/ready: models/requirements.txt | $(PYTHON)
	$(PYTHON) -m pip --disable-pip-version-check install --requirement $<
	touch $@

# Of the features only the search: no server, and no watching of files.
$(MDBOOK): | prerequisites
	cargo install --locked --debug --no-default-features --features search --root $(CACHE)/mdbook-$(MDBOOK_VERSION) \
		mdbook@$(MDBOOK_VERSION)

$(AUDITABLE): | prerequisites
	cargo install --locked --debug --root $(AUDITABLE_ROOT) cargo-auditable@$(AUDITABLE_VERSION)

$(CACHE)/bin/%: scripts/cargo_tool.py scripts/wheel.py | $(PYTHON)
	$(PYTHON) scripts/cargo_tool.py $* $@

$(LIBRARY): scripts/onnxruntime.py scripts/wheel.py | $(PYTHON)
	$(PYTHON) scripts/onnxruntime.py $@

$(CERTIFICATES): scripts/certificates.py scripts/wheel.py | $(PYTHON)
	$(PYTHON) scripts/certificates.py $@

$(DIGITS): models/digits_wide.py scripts/wheel.py $(CACHE)/venv/ready
	$(PYTHON) models/digits_wide.py $(MODELS) $(DIGITS_TEST)

$(MAGIKA): models/magika.py scripts/wheel.py | $(PYTHON)
	$(PYTHON) models/magika.py $(MODELS)

$(TEXT): models/text.py scripts/wheel.py $(CACHE)/venv/ready
	$(PYTHON) models/text.py $(TEXT_MODELS) $(SENTENCES)

$(CONV): models/conv_small.py scripts/wheel.py $(CACHE)/venv/ready
	$(PYTHON) models/conv_small.py $(BENCH_MODELS)
