# make report: from nothing to the finished HTML report.   make test: everything that CI runs.   No other step is needed.
VENV ?= .venv
PART ?= 2/8
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.PHONY: report test lab clean

report: $(VENV)/.installed
	OMP_NUM_THREADS=1 crossmodal run --report -j 2
	crossmodal book

test: $(VENV)/.installed
	crossmodal data get embedded
	ruff check nbs tests tools
	ruff format --check nbs tests tools
	python tests/in_sync.py
	OMP_NUM_THREADS=1 nbdev_test --n-workers 2 --timing --skip-folder-re '^([_.]|experiments$$)'
	OMP_NUM_THREADS=1 nbdev_test nbs/experiments --file-re '^0[02]_' --timing
	OMP_NUM_THREADS=1 crossmodal run --smoke -j 2
	crossmodal book --strict
	python tests/processors.py --setting sse --part $(PART)
	OMP_NUM_THREADS=1 pytest -q -rs -n 2 --dist worksteal

lab: $(VENV)/.installed
	jupyter lab nbs

clean:
	rm -rf work/smoke work/records book/_stage book/_build

$(VENV)/.installed: pyproject.toml
	python3 -m venv $(VENV)
	pip install --quiet --editable '.[test]'
	if [ -d .git ]; then nbdev-install-hooks; fi
	touch $@
