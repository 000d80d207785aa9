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

.PHONY: demo demo-images demo-mpi test test-all test-mpi wheel test-wheel fuzz soak sanitize bench docs lint clean

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

bench: $(BUILT) .stamps/bench
	cd asv_benchmarks && ../$(BIN)/asv machine --yes && ../$(BIN)/asv run -E existing:$(CURDIR)/$(BIN)/python --set-commit-hash=$$(git rev-parse HEAD)

docs: $(BUILT) .stamps/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

lint: $(BUILT) .stamps/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH cython-lint fastopt/_kernels
	$(BIN)/mypy
	$(CC) -fsyntax-only -fopenmp -Werror=double-promotion $(INCLUDES) fastopt/_kernels/core.c

clean:
	rm -rf .venv $(MPIS:%=.venv-%) .stamps build fastopt/_kernels/*.c fastopt/_kernels/*.so $(LEVELS:%=fastopt/_kernels/%) docs/_build docs/api docs/gallery

.stamps/venv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "setuptools>=77" "Cython>=3.1" "numpy>=2.0"
	mkdir -p .stamps && touch $@

# the package itself, in place: unchanged kernels are not compiled again
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

# the dependencies of one command: the extra of that name
.stamps/%: .stamps/venv pyproject.toml
	$(call REQUIREMENTS,$(BIN)/python,$*) > .stamps/$*.txt
	$(BIN)/python -m pip install -q -r .stamps/$*.txt
	touch $@
