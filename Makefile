# make demo: the whole thing on the embedded data set. make test: the whole test suite. Both set themselves up in .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/installed

.PHONY: install demo browser test check clean

install: $(STAMP)

# Every package is pinned with its hashes (scripts/pin), and nothing else is installed. opencv-python needs the system's libGL, which servers
# and containers often lack; the headless build of the same version does not.
$(STAMP): pyproject.toml constraints.txt constraints-headless.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer; make PYTHON=python3.11 names another" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) install --require-hashes -r constraints.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	$(BIN)/python -c 'import cv2' 2>/dev/null || { $(PIP) uninstall -y opencv-python && $(PIP) install --require-hashes --force-reinstall --no-deps -r constraints-headless.txt; }
	$(BIN)/python -c 'import cv2, torch, torchvision, ultralytics'
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
test: install browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	scripts/check

# Runs stay: they are the user's.
clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
