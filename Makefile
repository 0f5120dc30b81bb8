# Everything starts here: `make demo`, `make test`. Both install what is missing first.

VENV ?= .venv
PYTHON ?=
# The tested pair; the newest one tested is TORCH=2.15.0 TORCHVISION=0.29.2.
TORCH ?= 2.11.0
TORCHVISION ?= 0.26.0
# The distributions behind mmengine, mmcv, mmpretrain, mmdet and mmseg: onedl or original.
STACK ?= onedl

INSTALL = VENV='$(VENV)' PYTHON='$(PYTHON)' TORCH='$(TORCH)' TORCHVISION='$(TORCHVISION)' \
	STACK='$(STACK)' tools/install.sh
RUN = '$(VENV)/bin/python'
# Python keeps what it compiles: without, each start of torch and OpenMMLab takes ten seconds more.
unexport PYTHONDONTWRITEBYTECODE
# From the repository alone: no page asks the network.
BUILD_SITE = $(RUN) -m sphinx --fail-on-warning --keep-going --quiet -b html docs $(SITE)

# The rooms whose annotations are checked: the heart and, where it is there, the public API.
TYPED = $(wildcard $(addprefix mmsalmask/,saliency masking losses augmentation api))
SITE = docs/_build/html

.PHONY: help install demo test test-original test-gpu types docs lock clean

help:
	@echo "make demo     install, then pretrain on drawn images: kNN accuracy, masks, a backbone file"
	@echo "make test     install, then format, lint, types, metafiles, the docs site and all tests"
	@echo "make test-original  all tests beside the original mmengine, mmcv, mmdet, ... (.venv-original)"
	@echo "make test-gpu the tests that need a GPU, on one"
	@echo "make lock     renew requirements.lock: the newest versions that requirements*.txt allow"
	@echo "make types    check the type annotations of the heart and the public API"
	@echo "make docs     build the docs site, warnings as errors, into $(SITE)"
	@echo "make install  only bring the environment up to date"
	@echo "make clean    remove the environment, build folders and caches"
	@echo "Settings: VENV=$(VENV) PYTHON=$(PYTHON) (3.10 to 3.12) TORCH=$(TORCH) TORCHVISION=$(TORCHVISION)"

install:
	@$(INSTALL)

demo: install
	@$(RUN) tools/demo.py

test: install
	@echo "== ruff format"
	@$(RUN) -m ruff format --check . || { echo "Not formatted: run $(VENV)/bin/ruff format ." >&2; exit 1; }
	@echo "== ruff check"
	@$(RUN) -m ruff check . || { echo "Lint: mend the above ($(VENV)/bin/ruff check --fix . does part)" >&2; exit 1; }
	@echo "== types"
	@$(RUN) -m mypy $(TYPED) || { echo "Types: mend the above (make types)" >&2; exit 1; }
	@echo "== docs"
	@$(BUILD_SITE) || { echo "Docs: mend the above (make docs)" >&2; exit 1; }
	@echo "== metafiles"
	@$(RUN) -m pytest tests/test_metafiles.py || { echo "Metafiles, configs and published tables disagree." >&2; exit 1; }
	@echo "== tests"
	@$(RUN) -m pytest -n auto --ignore=tests/test_metafiles.py

test-original:
	@$(MAKE) install VENV='$(VENV)-original' STACK=original TORCH=2.5.1 TORCHVISION=0.20.1
	@'$(VENV)-original/bin/python' -m pytest -n auto

test-gpu: install
	@MMSALMASK_TEST_GPU=1 $(RUN) -m pytest -m gpu

types: install
	@$(RUN) -m mypy $(TYPED)

docs: install
	@$(BUILD_SITE)
	@echo "$(SITE)/index.html"

lock:
	@$(INSTALL) lock

clean:
	@for each in '$(VENV)' '$(VENV).uv' '$(VENV)-original' '$(VENV)-original.uv'; do \
		if [ -f "$$each/pyvenv.cfg" ]; then rm -rf "$$each" "$$each.lock"; fi; done
	@rm -rf build dist mmsalmask.egg-info mmsalmask/.mim .pytest_cache .ruff_cache .hypothesis
	@rm -rf .mypy_cache docs/_build docs/recipes docs/project
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
