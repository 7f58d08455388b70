# make course | test | attack | lab | site | bench | drift    PYTHON=python3.12 chooses the interpreter,
#                               TORCH_INDEX=ADDRESS another package index for torch (see README.md)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKS := $(shell mktemp -d 2>/dev/null)

.PHONY: course test attack lab site bench drift clean

course: $(READY)
	@$(BIN)/rlhf course

# A folder of its own for the runs, so that testing never touches yours. A few test files at once, each on one
# core: most of a test is a kernel or a program that starts. Two more than there are cores, since they often wait.
WORKERS = $$($(BIN)/python -c "import os; print(min(os.cpu_count(), 3) + 2)")
test: $(READY)
	@OMP_NUM_THREADS=1 RLHF_PROFILE=tiny RLHF_RUNS=$(CHECKS)/runs RLHF_REFERENCE=0 $(BIN)/python -m pytest -n $(WORKERS) \
	  --dist loadfile --no-loadscope-reorder --nbmake --nbmake-timeout=900 --ignore=chapters/solutions \
	  tests chapters; \
	status=$$?; rm -rf $(CHECKS); exit $$status

# The longer rounds of tests/test_attacks: kills, ten minutes of fuzzing for each reader of strangers' texts, and
# thousands of rankings with servers and writers killed. About an hour and a half on two cores.
attack: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/test_attacks/kills.py 100
	@OMP_NUM_THREADS=1 RLHF_PROFILE=tiny RLHF_RUNS=$(CHECKS)/runs RLHF_REFERENCE=0 RLHF_ATTACK=1 RLHF_FUZZ=600 $(BIN)/python -m pytest \
	  -n 2 -m attack tests; status=$$?; rm -rf $(CHECKS); exit $$status

lab: $(READY)
	@$(BIN)/jupyter lab chapters/00_start_here.ipynb

# The course as a static book; PDF=--pdf makes one PDF of it as well, if there is a Chromium.
site: $(READY)
	@$(BIN)/python docs/build_site.py $(PDF)

# Speed beside what one would otherwise use; BENCH="--trl DIR --nanogpt DIR" adds two peers (see the file).
bench: $(READY)
	@$(BIN)/python tests/benchmarks/speed.py $(BENCH)

# The newest torch, transformers, TRL and peft in the place of the pinned ones, and the tests that touch them:
# nobody upstream tests GPT-2 with these trainers any more, nor our own passes through others. Its own environment.
DRIFT := .venv-drift
drift:
	@test -x $(DRIFT)/bin/python || $(PYTHON) -m venv $(DRIFT)
	@$(if $(TORCH_INDEX),PIP_INDEX_URL=$(TORCH_INDEX) $(DRIFT)/bin/python -m pip install -q -U torch,true)
	@$(DRIFT)/bin/python -m pip install -q -U --upgrade-strategy eager -e '.[test]'
	@$(DRIFT)/bin/python -m pip list 2> /dev/null | grep -i -E '^(torch|transformers|trl|peft|accelerate|datasets|tokenizers) '
	@OMP_NUM_THREADS=1 RLHF_REFERENCE=0 $(DRIFT)/bin/python -m pytest -q tests/test_beyond.py tests/test_models.py tests/test_ppo.py \
	  tests/test_architectures.py tests/test_pretrained.py tests/test_pretraining.py tests/test_reward.py

$(READY): requirements.txt pyproject.toml
	@echo "Setting up $(VENV) (a few minutes, once) …"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make course PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),PIP_INDEX_URL=$(TORCH_INDEX) $(BIN)/python -m pip install -q "$$(grep '^torch==' requirements.txt)",true)
	@$(BIN)/python -m pip install -q -r requirements.txt
	@$(BIN)/python -m pip install -q --no-deps -e .
	@touch $(READY)

clean:
	@rm -rf $(VENV) $(DRIFT)
