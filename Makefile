# Each target sets up what it needs in a virtual environment of its own and uses it again until pyproject.toml or
# constraints.txt changes. `make demo PYTHON=python3.12` chooses the interpreter (3.10 or newer).
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test bench lint format examples clean-venv

help:
	@echo "make demo        install memprof alone and run: memprof estimate llama-13b"
	@echo "make test        install everything the tests need and run them (TESTS=path, ARGS='-k name')"
	@echo "make lint        style, types, import rules; the container, the scripts and the workflows"
	@echo "make bench       the benchmarks"
	@echo "make format      rewrite the code as the style wants it"
	@echo "make examples    draw reports/examples and the README's screenshots again"
	@echo "make clean-venv  remove the virtual environments"

demo: $(DEMO)/.installed
	@$(DEMO)/bin/memprof estimate llama-13b

# Workers share the tests out among themselves, as most of them wait for one core; four are enough and fit in 4 GB.
test: $(TEST)/.installed
	$(TEST)/bin/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal -p no:benchmark $(ARGS) $(TESTS)

# Alone and in one process, as they measure time.
bench: $(TEST)/.installed
	$(TEST)/bin/python -m pytest -p no:xdist $(ARGS) benchmarks

lint: $(TEST)/.installed
	$(TEST)/bin/ruff check
	$(TEST)/bin/ruff format --check
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports
	$(TEST)/bin/hadolint docker/Dockerfile
	$(TEST)/bin/shellcheck .ci/run ci/*.sh docker/*.sh
	PATH="$(CURDIR)/$(TEST)/bin:$$PATH" $(TEST)/bin/actionlint
	$(TEST)/bin/zizmor --offline --no-progress action.yml .github/workflows
	$(TEST)/bin/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(TEST)/bin/check-jsonschema --builtin-schema vendor.gitlab-ci ci/gitlab.yml
	$(TEST)/bin/pre-commit validate-manifest .pre-commit-hooks.yaml

format: $(TEST)/.installed
	$(TEST)/bin/ruff check --fix
	$(TEST)/bin/ruff format

# The time of day is left out of them, so that the same code gives the same bytes.
EXAMPLES := llama-13b-a100 llama-2-7b-qlora-t4 llama-3.1-8b-fsdp-8xh100 llama-3.1-8b-inference-l4 llama-3.1-8b-lora-4090
examples: export SOURCE_DATE_EPOCH := 0
examples: $(TEST)/.installed
	for name in $(EXAMPLES); do \
	  $(TEST)/bin/memprof estimate --scenario scenarios/$$name.yaml -o reports/examples/$$name.html --force || exit 1; \
	done
	$(TEST)/bin/python -m tests.support.screenshots

clean-venv:
	rm -rf $(DEMO) $(TEST)

$(DEMO)/.installed: pyproject.toml constraints.txt
	$(call new-venv,$(DEMO))
	$(DEMO)/bin/pip install --quiet --constraint constraints.txt --editable .
	@$(DEMO)/bin/python -m compileall -q memprof
	@touch $@

# torch is named beside the rest, at its pinned version, so that where a CPU build of it is offered pip takes that one.
$(TEST)/.installed: pyproject.toml constraints.txt
	$(call new-venv,$(TEST))
	$(TEST)/bin/pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)" --editable '.[all,dev]'
	@$(TEST)/bin/python -m compileall -q memprof
	@touch $@

define new-venv
@$(PYTHON) -c 'import sys; sys.exit("memprof needs Python 3.10 or newer; try: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
$(PYTHON) -m venv --clear $(1)
endef
