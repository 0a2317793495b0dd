# Few targets, the same that CI runs. Every one that needs the environment makes it first; the second time that takes a second.
PYTEST = .venv/bin/python -m pytest
ARGS ?=

.PHONY: install test test-fast test-box bench lint docs clean

install:  ## the appliance into .venv
	./install.sh --user

test: .test-env  ## the whole suite; as root also installs missing system packages
	$(PYTEST) $(ARGS)

test-fast: .test-env  ## unit and http tests
	$(PYTEST) tests/unit tests/http -m "not process and not browser" -n 3 $(ARGS)

test-box: .test-env  ## a Debian of its own: install, upgrade, break, roll back, kill 20 times; as root
	apt-get install -y --no-install-recommends debootstrap systemd-container
	APPLIANCE_BOX_KILLS=20 $(PYTEST) tests/install/test_box.py -rs $(ARGS)

bench:  ## against llama-server, one table and a JSON file
	./install.sh --user --apt --extra bench
	.venv/bin/python -m bench.serve $(ARGS)

lint: .test-env
	.venv/bin/python -m ruff check .
	! command -v shellcheck >/dev/null || shellcheck install.sh .ci/run

docs: .test-env  ## write the generated parts of the README again
	.venv/bin/python -m appliance.cli.docs --write

clean:  ## what tools left; .venv and the wheel cache stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: .test-env
.test-env:
	./install.sh --user --apt --test --extra factory
