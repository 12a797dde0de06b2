# The short way to everything; `make help` lists it. Each target only calls the `thinkship` command or the test runner.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

RECIPE ?= recipes/smollm2-demo.yml
ENGINES ?=
STORE ?= .thinkship
PORT ?=
RUNNER ?= local
RECLAIM ?=
MARKED ?=
ONLY ?=
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
THINKSHIP := $(BIN)/thinkship
ENGINE_FLAGS = $(foreach engine,$(ENGINES),--engine $(engine))
PORT_FLAG = $(if $(PORT),--port $(PORT))
RECLAIM_FLAG = $(if $(RECLAIM),--reclaim)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

.venv/.host: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11"; echo "fix: make PYTHON=python3.12 ..."; exit 4; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
	@$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

.PHONY: demo
demo: .venv/.host ## fine-tune, merge, convert, serve and verify a real small model; ENGINES="llamacpp ollama vllm transformers" for all, RECLAIM=1 to free intermediates
	@$(THINKSHIP) run $(RECIPE) --runner $(RUNNER) --store $(STORE) $(ENGINE_FLAGS) $(RECLAIM_FLAG)

.PHONY: serve-vllm serve-ollama serve-llamacpp serve-transformers
serve-vllm: .venv/.host ## serve RECIPE with vLLM (PORT=8000, RUNNER=docker for a container)
serve-ollama: .venv/.host ## serve RECIPE with Ollama (PORT=11434)
serve-llamacpp: .venv/.host ## serve RECIPE with llama.cpp's server (PORT=8080)
serve-transformers: .venv/.host ## serve RECIPE with transformers
serve-vllm serve-ollama serve-llamacpp serve-transformers: serve-%: .venv/.host
	@$(THINKSHIP) serve $(RECIPE) --engine $* --runner $(RUNNER) --store $(STORE) $(PORT_FLAG)

.PHONY: verify
verify: .venv/.host ## verify RECIPE's engines (ENGINES=...)
	@$(THINKSHIP) verify $(RECIPE) --store $(STORE)

.PHONY: health
health: .venv/.host ## ask the running server one question: does it answer, does it think?
	@$(THINKSHIP) health --store $(STORE)

.PHONY: stop
stop: .venv/.host ## stop every server that was started here
	@$(THINKSHIP) stop --store $(STORE)

.PHONY: logs
logs: .venv/.host ## the last lines of every server that was started here
	@$(THINKSHIP) logs --store $(STORE)

.PHONY: images
images: .venv/.host ## build every image that is not here by content
	@$(THINKSHIP) images build

.PHONY: doctor
doctor: .venv/.host ## look at this machine: tools, memory, disk, ports, GPU
	@$(THINKSHIP) doctor $(RECIPE) --store $(STORE)

.PHONY: check
check: .venv/.host ## ruff, its formatter, mypy --strict and the generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --quiet --check . || { echo 'error: not formatted'; echo 'fix: make format'; exit 1; }
	@$(BIN)/mypy
	@$(THINKSHIP) docs --check

.PHONY: format
format: .venv/.host ## format the code
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

.PHONY: unit
unit: .venv/.host ## the unit tests alone: seconds, no network, no engine
	@$(BIN)/pytest -q -n auto -m "not loopback" tests/unit

.PHONY: loopback
loopback: .venv/.host ## the host package against real servers and terminals on this machine that hang, break off and lie
	@$(BIN)/pytest -q -n 2 -m loopback tests/unit

PYTEST = $(BIN)/pytest -q -o addopts="-ra --strict-markers --strict-config --durations=12 --durations-min=10"
CHOSEN = $(PYTEST) $(if $(MARKED),-m "$(MARKED)") $(if $(ONLY),-k "$(ONLY)")

.PHONY: test
test: unit loopback test-programs test-e2e $(if $(MARKED),,test-beside) ## units, bad servers, stage programs, the whole chain with real engines, kills, faults, adapters beside a base, alert rules, the report in a browser (about an hour on 2 cores); MARKED="not long" leaves out what CI runs where it has time
	@$(PYTEST) tests/monitoring
	@$(PYTEST) tests/browser

.PHONY: test-programs
test-programs: .venv/.host ## of `make test`: each stage's program in its own environment, on the small base and on layers of every family's shape
	@$(CHOSEN) -n 2 --dist loadfile --no-loadscope-reorder tests/programs

.PHONY: test-e2e
test-e2e: .venv/.host ## of `make test`: the demo to its verdict with real engines, served, talked to, killed, bundled (THINKSHIP_TEST_STORE keeps its store)
	@$(CHOSEN) tests/e2e

.PHONY: test-faults
test-faults: .venv/.host ## plant faults in real engines and print which check finds each (THINKSHIP_TEST_STORE=a finished store)
	@$(PYTEST) tests/faults

.PHONY: test-foreign
test-foreign: .venv/.host ## adapters that LLaMA-Factory and ms-swift train for real, through the gate, each in an environment of its own; TRAINERS=llamafactory for one
	@$(PYTEST) tests/foreign $(if $(TRAINERS),-k $(TRAINERS))

.PHONY: test-routed
test-routed: .venv/.host ## two replicas of the demo in vLLM behind vLLM's own router, and in Ray Serve LLM as exported, on CPUs, held against the gate
	@$(PYTEST) tests/routed

.PHONY: test-beside
test-beside: .venv/.host ## of `make test`: two adapters beside one base in vLLM, llama.cpp and Ollama, trained, served and judged, on a disk that is freed on the way
	@$(PYTEST) tests/beside

.PHONY: test-images
test-images: .venv/.host ## the images, compose and the docker runner on a real engine; THINKSHIP_TEST_IMAGES="verify llamacpp" for some
	@$(CHOSEN) tests/images

.PHONY: test-deploy
test-deploy: .venv/.host ## releases on this host: tried, promoted, taken back, killed, under clients (Docker; THINKSHIP_TEST_STORE=a verified store)
	@$(CHOSEN) tests/deploy

.PHONY: test-cluster
test-cluster: .venv/.host ## the chart, the exports, runs as Jobs, releases and faults on a real cluster (KUBECONFIG, helm; THINKSHIP_TEST_STORE=a finished store); ONLY=faults for some
	@$(CHOSEN) tests/cluster

.PHONY: pins
pins: ## write the pins of images/base.env into Dockerfiles and compose
	@sh images/pins.sh

.PHONY: locks
locks: .venv/.host ## resolve every requirements.lock again
	@$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --all-extras pyproject.toml -o requirements.lock
	@sh images/locks.sh $(abspath $(UV))
