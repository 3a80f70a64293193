# Every command of this repository. `make help` lists them.

# The Python that `make setup` makes .venv with: empty = the newest supported one of this machine.
PYTHON ?=
# uv or pip: empty = uv, and pip where uv cannot be had.
INSTALLER ?=
MLFLOW_PORT ?= 5000
AIRFLOW_PORT ?= 8080
TAG ?= latest
TEST_WORKERS ?= 3
export MLFLOW_PORT AIRFLOW_PORT
# Waiting threads sleep. Threads that spin while they wait are far slower if anything else uses a core (docs/benchmarks.md).
export OMP_WAIT_POLICY ?= PASSIVE

BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCE_OPTIONS = $(if $(SOURCE),--source '$(SOURCE)') $(if $(MONTHS),--months '$(MONTHS)') $(if $(DATES),--dates '$(DATES)') \
	$(if $(FROM),--from '$(FROM)')
BENCH_OPTIONS = $(if $(ENV),--env '$(ENV)') $(if $(DATA),--data '$(DATA)') $(if $(SEEDS),--seeds $(SEEDS)) \
	$(foreach pair,$(SET),--set '$(pair)')

.DEFAULT_GOAL := help
.PHONY: help setup train tune test test-all test-fast test-images test-cluster lint notebook docs screenshots bench bench-scale bench-accuracy bench-ride bench-ablation bench-stress up down lock audit image

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

setup: $(INSTALLED) ## make .venv and install the locked packages into it: make setup [PYTHON=python3.12] [INSTALLER=uv|pip]

$(INSTALLED): requirements.txt requirements-dev.txt
	@python=$$(PYTHON='$(PYTHON)' sh scripts/find_python.sh) \
		&& "$$python" scripts/install.py $(if $(INSTALLER),--installer '$(INSTALLER)') requirements.txt requirements-dev.txt
	@touch $@

train: $(INSTALLED) ## run the whole DAG model_training: make train [DATA=folder | SOURCE=ride MONTHS=2024-01 [FROM=folder]] [ENV=local] [SET="key=value …"]
	@$(BIN)/python scripts/train.py $(SOURCE_OPTIONS) $(if $(ENV),--env '$(ENV)') $(if $(DATA),--data '$(DATA)') $(foreach pair,$(SET),--set '$(pair)')

tune: $(INSTALLED) ## run the whole DAG hyperparameter_tuning: make tune [TRIALS=6] [WORKERS=1] [DATA=folder] [ENV=optuna] [SET="key=value …"]
	@$(BIN)/python scripts/tune.py $(if $(TRIALS),--trials '$(TRIALS)') $(if $(WORKERS),--workers '$(WORKERS)') \
		$(SOURCE_OPTIONS) $(if $(ENV),--env '$(ENV)') $(if $(DATA),--data '$(DATA)') $(foreach pair,$(SET),--set '$(pair)')

# The tests of a file run in the same process and share its servers. Each process has one thread for arrays and one for
# tables, since more would wait for each other.
# Python keeps the bytecode of what it imports, also where the shell says no: the tests start hundreds of processes.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

test: $(INSTALLED) ## run every test: make test [TEST_WORKERS=2]
	@$(BIN)/python -m tests.support.programs
	$(PYTEST)

test-all: $(INSTALLED) ## run every test, with ten times the kills and hostile inputs, real servers, and the images: make test-all [TEST_GRID=10]
	@$(BIN)/python -m tests.support.programs --containers --servers
	TEST_GRID='$(or $(TEST_GRID),10)' TEST_IMAGES=1 TEST_SERVERS=1 $(PYTEST)

test-images: $(INSTALLED) ## build the images with podman and run them confined, as their pods are (root, Debian or Ubuntu)
	@$(BIN)/python -m tests.support.programs --containers
	TEST_IMAGES=1 $(BIN)/python -m pytest tests/images

test-cluster: $(INSTALLED) ## install on the cluster of KUBECONFIG, run everything, remove it: make test-cluster REGISTRY=… TAG=… [KEEP=1]
	@TEST_CLUSTER=1 REGISTRY='$(REGISTRY)' TAG='$(TAG)' KEEP='$(KEEP)' $(BIN)/python -m pytest --verbose tests/cluster

test-fast: $(INSTALLED) ## run the tests that take seconds
	$(PYTEST) -m "not slow"

lint: $(INSTALLED) ## check style, format, types, imports between packages, and prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=plugins $(BIN)/lint-imports
	$(BIN)/python scripts/prose.py

notebook: $(INSTALLED) ## run the notebook that explores a snapshot: make notebook [RUN=newest] [AT=time] [TRAIN=number] [DATA=folder]
	@$(BIN)/python scripts/explore.py $(if $(RUN),--run '$(RUN)') $(if $(AT),--at '$(AT)') $(if $(TRAIN),--train '$(TRAIN)') \
		$(if $(DATA),--data '$(DATA)') $(if $(ENV),--env '$(ENV)')

docs: $(INSTALLED) ## build the documentation site into data/site and check its links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "file://$(CURDIR)/data/site/index.html"

screenshots: $(INSTALLED) ## renew the pictures of Airflow's and MLflow's pages in docs/images
	@$(BIN)/python -m tests.support.programs
	SCREENSHOTS='$(CURDIR)/docs/images' $(BIN)/python -m pytest tests/e2e/test_up.py

bench: $(INSTALLED) ## measure the speeds that docs/benchmarks.md gives
	@for file in $(filter-out %/bench_scale.py,$(wildcard benchmarks/speed/bench_*.py)); do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

bench-scale: $(INSTALLED) ## measure every stage on three years of a whole network: make bench-scale [DATES=1096 | CURVE="30 120"] [KEEP=folder] [STAGES="fetch train"]
	@$(BIN)/python benchmarks/speed/bench_scale.py $(if $(CURVE),--curve $(CURVE),$(if $(DATES),--dates '$(DATES)')) \
		$(if $(KEEP),--keep '$(KEEP)') $(if $(STAGES),--stages $(STAGES)) $(foreach pair,$(SET),--set '$(pair)')

bench-accuracy: $(INSTALLED) ## compare the accuracy with boosted trees: make bench-accuracy [DATA=folder] [SEEDS="42 43 44"] [BY_DATE=1 | ORIGINS=5] [TREE_SNAPSHOTS=all] [TREE_TRIALS=20] [RESUME=1] [SET="key=value …"]
	@$(BIN)/python benchmarks/accuracy/against_trees.py $(BENCH_OPTIONS) $(if $(BY_DATE),--leave-one-date-out) \
		$(if $(ORIGINS),--rolling-origin '$(ORIGINS)') $(if $(TREE_SNAPSHOTS),--tree-snapshots '$(TREE_SNAPSHOTS)') \
		$(if $(TREE_TRIALS),--tune-tree '$(TREE_TRIALS)') $(if $(RESUME),--resume)

bench-ride: $(INSTALLED) ## train, export and score on RIDE: make bench-ride CORE=folder [ENV=ride|ride-large] [N_SEEDS=10 | SEEDS="42 43"] [RESUME=1] [FROM=folder] [DATA=data/ride] [SET="key=value …"]
	@$(BIN)/python benchmarks/accuracy/ride_core.py --core '$(or $(CORE),data/gold/lite/core)' $(if $(FROM),--from '$(FROM)') \
		$(if $(N_SEEDS),--n-seeds '$(N_SEEDS)') $(if $(RESUME),--resume) $(BENCH_OPTIONS)

bench-ablation: $(INSTALLED) ## measure the value of each input: make bench-ablation [DATA=folder] [SEEDS=42] [EPOCHS=4] [SET="key=value …"]
	@$(BIN)/python benchmarks/accuracy/ablation.py $(BENCH_OPTIONS) $(if $(EPOCHS),--epochs '$(EPOCHS)')

bench-stress: $(INSTALLED) ## measure the accuracy under late, lost and wrong observations: make bench-stress [DATA=folder] [ON=test] [SEEDS=42] [SET="key=value …"]
	@$(BIN)/python benchmarks/accuracy/stress.py $(BENCH_OPTIONS) $(if $(ON),--on '$(ON)')

up: $(INSTALLED) ## start Airflow on :8080 (AIRFLOW_PORT) and MLflow on :5000 (MLFLOW_PORT)
	@$(BIN)/python scripts/services.py up

down: $(INSTALLED) ## stop the servers of `make up`
	@$(BIN)/python scripts/services.py down

image: ## build the images for a cluster: make image [REGISTRY=registry.example.org/] [TAG=0.1.0] [ENGINE=docker|podman|buildah]
	@python=$$(PYTHON='$(PYTHON)' sh scripts/find_python.sh) && "$$python" scripts/build_images.py --registry '$(REGISTRY)' --tag '$(TAG)' \
		$(if $(ENGINE),--engine '$(ENGINE)') -- $(BUILD_OPTIONS)

lock: $(INSTALLED) ## pin the newest versions that requirements*.in allow, for every supported Python
	@$(BIN)/python scripts/lock.py

audit: $(INSTALLED) ## check the pinned packages and write their bills of materials into data/supply: make audit [SERVICE=osv]
	@$(BIN)/python scripts/audit.py $(if $(SERVICE),--service '$(SERVICE)')
