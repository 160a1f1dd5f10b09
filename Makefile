# Stagecraft. `make demo` and `make test` do all the set-up there is.
#
# PYTHON=python3.12   interpreter to make the environment with
# OUTPUT=outputs      folder of runs that `make ui` shows
# PORT=5000           port of the UI
# RUN="seed=1"        more settings for `make demo`
# SEED=0              which faults `make test-faults` draws
# WORKERS=2           processes that share the tests of `make test`

VENV := .venv
OUTPUT := outputs
PORT := 5000
RUN :=
SEED := 0
WORKERS := 2
bin := $(VENV)/bin
export VENV PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm test-methods test-faults bench bench-gpu ui gpu lint format lock clean environment environment-vllm

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: environment ## train and score FastCuRL's four stages in miniature, no GPU (5 minutes)
	@$(bin)/python -m flows.pipeline experiment=lab/fastcurl $(RUN)

test: lint ## format, lint and every test that needs no GPU
	@$(bin)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-vllm: environment-vllm ## the tests that sample with vLLM's CPU build (1.5 GB more)
	@$(bin)/python -m pytest -m vllm

test-faults: environment ## kill, fill and break real runs, and see what they lose (an hour)
	@$(bin)/python -m pytest tests/faults tests/flows/test_cluster.py -m "not gpu" --faults-seed $(SEED) \
		--faults-table benchmarks/results

test-methods: environment ## every method, lab recipe and selection for a few steps on verl (nightly; 35 minutes)
	@$(bin)/python -m pytest tests/flows/test_methods.py -m nightly --methods-table benchmarks/results

bench: environment ## every benchmark that needs no GPU, into benchmarks/results (an hour and a half)
	@$(bin)/python -m benchmarks.all

bench-gpu: ## ours beside stock verl on one GPU, after make gpu (into benchmarks/results)
	@$(bin)/python -m benchmarks.gpu

lint: environment ## ruff's format and rules
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .

format: environment ## write the code as lint wants it
	@$(bin)/ruff format .
	@$(bin)/ruff check --fix .

ui: environment ## look at the runs: MLflow's UI on this machine, at the port in PORT
	@test -f "$(OUTPUT)/mlflow.db" || { printf '%s\n\n%s\n' "$(OUTPUT) holds no runs yet" \
		"hint: make demo, or name the folder of your runs: make ui OUTPUT=..." >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C ends it)"
	@DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
		PYTHONWARNINGS=ignore $(bin)/mlflow ui --host 127.0.0.1 --port $(PORT) \
		--workers 1 --backend-store-uri "sqlite:///$$(realpath "$(OUTPUT)")/mlflow.db"

gpu: ## the environment of a GPU node: verl's own pins, torch 2.11 and vLLM 0.24
	@bash requirements/install.sh gpu

lock: ## resolve requirements/*.txt anew (needs uv)
	@bash requirements/lock.sh

clean: ## remove the environment and what tests and builds leave, not the outputs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Costs nothing once made: install.sh compares its stamp with the pins.
environment:
	@bash requirements/install.sh cpu

environment-vllm:
	@bash requirements/install.sh cpu-vllm
