# make demo: the whole thing on the embedded data set. make test: the whole test suite. Both set themselves up in .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install install-dev demo browser test check clean

# What a user needs. The locks name every package with its version and hashes (scripts/lock), and nothing else is installed. opencv-python
# needs the system's libGL, which servers and containers often lack; the headless build of the same version does not. (editable_mode: by
# setuptools' usual one a folder called detclean in the current directory, such as the clone, hides the package.)
install: .venv/installed
.venv/installed: pyproject.toml scripts/install locks/run.txt locks/headless.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer; make PYTHON=python3.11 names another" >&2; exit 2; }
	PYTHON=$(PYTHON) scripts/install .venv locks/run.txt
	$(BIN)/python -c 'import cv2' 2>/dev/null || { $(PIP) uninstall --quiet --yes opencv-python opencv-python-headless && scripts/install .venv locks/headless.txt; }
	$(PIP) install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	$(BIN)/python -c 'import cv2, torch, torchvision, ultralytics'
	touch $@

# What style, types and tests need on top.
install-dev: .venv/installed-dev
.venv/installed-dev: .venv/installed locks/dev.txt
	scripts/install .venv locks/dev.txt
	touch $@

demo: install
	$(BIN)/python -m detclean run configs/yolo.yaml

# Debian's Chromium, for the tests of the report and the review app; where it cannot be installed, those are skipped and say so.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	fi; command -v chromium || echo "NO BROWSER: install Debian's package chromium to test the report and the review app" >&2

# Two at a time, a file in one piece: most of the time goes into small trainings that use one core each.
test: install-dev browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install-dev browser
	scripts/check

# Runs stay: they are the user's.
clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
