# Every target works from a fresh clone. `make setup PYTHON=python3.13` chooses the interpreter of .venv.
PYTHON ?=
export PYTHON

# Most tests wait for something; on two cores twice as many processes take half the time.
TEST_PROCESSES ?= 3

# Tools that tools/need fetched without root live in .tools; nginx is in sbin, which is not on every user's path.
export PATH := $(CURDIR)/.tools/usr/bin:$(CURDIR)/.tools/usr/sbin:$(PATH):/usr/sbin

BIN := .venv/bin
RUN_READY := .venv/.ready-run
DEV_READY := .venv/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench soak clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV_READY) ## create .venv with the package, its extras and the tools of the tests

run: $(RUN_READY) ## start the shop: two users services and a chat behind the gateway (Ctrl-C drains and stops it)
	@$(BIN)/forebay up examples/shop/forebay.toml

test: lint ## lint, types, layers, tests and the examples of the documentation
	@tools/need promtool prometheus
	@tools/need nginx nginx
	@tools/need haproxy haproxy
	@tools/need caddy caddy
	@tools/need slowhttptest slowhttptest
	@tools/need chromium chromium
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --durations=15 -m "not alone"
	$(BIN)/python -m pytest -q -m alone

lint: $(DEV_READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV_READY) ## measure against nginx, uvicorn and others; ARGS="--only tcp --rounds 1 --seconds 2" narrows it
	@tools/need nginx nginx
	@tools/need wrk wrk
	@test -d /usr/share/gocode/src/github.com/gin-gonic/gin || tools/apt-install golang-go golang-github-gin-gonic-gin-dev || true
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(DEV_READY) ## what takes long: property tests, 10,000 connections, TLS churn, workers, fuzzing; ARGS=fuzz runs one of them
	@tools/need slowhttptest slowhttptest
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean: ## remove what the other targets made, except the shop's data in var/
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist src/*.egg-info benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed editable, so only a change of its metadata needs another set-up.
$(RUN_READY): pyproject.toml tools/setup
	@tools/setup
	@touch $@

$(DEV_READY): pyproject.toml tools/setup
	@tools/setup dev,bench
	@touch $(RUN_READY) $@
