# One line per habit; `make help` lists them. Each target makes .venv if there is none.
# Without make: see "No make?" in README.md.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo play test quick deep deep-tests deep-nodes deep-traces deep-simulator deep-replay fuzz chaos lint format links docs docs-serve figures check model-check simulate hunt cluster-bootstrap cluster-down bench bench-engine mutate clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -e

.venv/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[cli,test,tla,browser,docs,console,mirror]'
	touch $@ .venv/.with-cli .venv/.with-console

# What only runs needs neither Java nor a test library.
.venv/.with-%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[cli,$*]'
	touch $@

demo: .venv/.with-cli ## start a cluster, stream a log in, kill a leader, count what is lost (0)
	$(BIN)/python -m walrus.demo

test: .venv/.installed ## everything
	$(PYTEST) -n 4 --dist worksteal -q

quick: .venv/.installed ## the tests that start no process and no TLC
	$(PYTEST) -n 2 -q -m 'not process and not tla and not slow'

deep: deep-tests deep-nodes deep-traces deep-simulator deep-replay ## all five parts (two hours on two cores)

deep-tests: .venv/.installed ## the property tests with many more examples, and a call cut at each line (an hour)
	HYPOTHESIS_PROFILE=deep $(PYTEST) -n 2 --dist worksteal -q --timeout 7200 -m 'not process and not tla'

deep-nodes: .venv/.installed ## many more faults on real nodes, and a million entries mirrored to NATS (20 minutes)
	HYPOTHESIS_PROFILE=deep $(PYTEST) -q tests/node/test_chaos.py tests/node/test_independent.py
	HYPOTHESIS_PROFILE=deep $(PYTEST) -q --timeout 7200 tests/mirror/test_nats.py

deep-traces: .venv/.installed ## corrupted runs by the hundred, which TLC is to refuse (half an hour)
	HYPOTHESIS_PROFILE=deep $(PYTEST) -n 2 -q tests/tlc/test_corruptions.py tests/tlc/test_raft_corruptions.py
	HYPOTHESIS_PROFILE=deep $(PYTEST) -q --timeout 7200 tests/tlc/test_delivery_traces.py \
		tests/tlc/test_publish_traces.py tests/tlc/test_retention_traces.py

deep-simulator: .venv/.installed ## long runs of twenty seeds, and a deep exploration (20 minutes)
	$(BIN)/python -m walrus.sim --seed 1000 --seeds 16
	$(BIN)/python -m walrus.sim --seed 2000 --seeds 4 --small-shares --workers 2 --keepers 1
	$(BIN)/python -m walrus.sim explore segments --depth 8

deep-replay: .venv/.installed ## thousands of TLC's behaviours, performed on the code (10 minutes)
	$(BIN)/python -m walrus.tlc replay --behaviours 1000
	$(BIN)/python -m walrus.tlc replay walrus-simulate --behaviours 1000
	$(BIN)/python -m walrus.tlc replay walrus-simulate --behaviours 100 --checkpoints

fuzz: .venv/.installed ## atheris on every decoder of foreign bytes; MINUTES=10 in all (Linux)
	$(INSTALL) '.[fuzz]'
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

chaos: .venv/.installed ## random faults on real nodes, judged by what only the protocol's page says; MINUTES=60
	$(BIN)/python -m tests.node.chaos --minutes $(or $(MINUTES),60)

lint: .venv/.installed ## ruff, mypy --strict, the import contracts, and the documentation as a site
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tools.site

format: .venv/.installed ## let ruff format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

links: .venv/.installed ## every relative link in the documentation leads somewhere
	$(PYTEST) -q tests/test_links.py

docs: .venv/.installed ## the documentation as a site, in build/site
	$(BIN)/python -m tools.site

docs-serve: .venv/.installed ## the same on 127.0.0.1:8000, built again when a page changes
	$(BIN)/python -m tools.site --serve

figures: .venv/.installed ## draw the figures of the documentation anew, from the transcripts
	$(BIN)/python -m tools.figures --write

check: lint test ## what CI runs

model-check: .venv/.installed ## TLC on every configuration, every planted bug and every generated one (an hour)
	$(BIN)/python -m walrus.tlc coverage $(basename $(notdir $(filter-out %-simulate.cfg,$(wildcard spec/*.cfg))))
	$(BIN)/python -m walrus.tlc mutants
	$(BIN)/python -m walrus.tlc guards

simulate: .venv/.with-cli ## one run of the real nodes in a seeded world; `python -m walrus.sim --seed N` for others
	$(BIN)/python -m walrus.sim --seed 7

hunt: .venv/.with-cli ## did your change break an invariant? Seeds until one fails, and hunt.html shows it
	$(BIN)/python -m walrus.sim --seeds $(or $(SEEDS),20) --steps 6000 --why --html hunt.html

play: .venv/.with-console ## a cluster and its console in the browser: kill a leader with a click; Ctrl-C ends it
	$(BIN)/python -m walrus.cluster --nodes 3 --play

cluster-bootstrap: .venv/.with-cli ## three nodes in the background: clients 9091-9093, raft 6001-6003
	$(BIN)/python -m walrus.cluster --nodes 3 --detach

cluster-down: .venv/.with-cli ## stop them
	$(BIN)/python -m walrus.cluster --down

bench: .venv/.installed ## the cluster's figures beside the machine's limits
	$(BIN)/python -m benchmarks.cluster

bench-engine: .venv/.installed ## the engine's figures beside its peers'
	$(INSTALL) '.[bench]'
	$(BIN)/python -m benchmarks.engine

mutate: .venv/.installed ## plant 400 slips in the logic and see how many the quick tests notice (an hour)
	$(BIN)/python -m tools.mutate --sample 400 --seed 1

clean: ## remove what was built, and the data of `make cluster-bootstrap`
	rm -rf .venv build dist *.egg-info .pytest_cache .grimp_cache .mypy_cache .ruff_cache .hypothesis data
