# Sets up a virtual environment and runs the two commands of the README, and a few more.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-kernels test-pyusb soak check bench bench-kernel clean

demo: $(READY)
	@$(BIN)/usbip-vudc demo

# Both lanes: pytest here, and pytest in the lab, on the kernel of /boot or Debian 12's.
test: check
	@$(BIN)/python -m tests.lane

# The kernel lane alone, on Debian 11's kernel, 12's, 13's and the newest of the archive.
test-kernels: $(READY)
	@$(BIN)/python -m tests.lane --kernels \
	  debian:bullseye debian:bookworm debian:trixie debian:newest

# PyUSB's own tests, fetched, against its test device: through our backend, and through libusb in
# the lab. python-functionfs's host script is part of the kernel lane.
test-pyusb: $(READY)
	@$(BIN)/python -m tests.pyusb_suite
	@$(BIN)/usbip-vudc lab -- $(CURDIR)/$(BIN)/python -m tests.pyusb_suite --linux

# Mixed traffic on a disk and serial ports, compared byte by byte, for 5 minutes or SOAK_SECONDS.
soak: $(READY)
	@$(BIN)/python -m tests.soak

check: $(READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m bench

# In the lab, with a USB disk of QEMU's own beside ours.
bench-kernel: $(READY)
	@$(BIN)/usbip-vudc lab --timeout 3600 --qemu "-device qemu-xhci \
	  -drive if=none,id=stick,driver=null-co,size=64M,read-zeroes=on \
	  -device usb-storage,drive=stick" -- $(CURDIR)/$(BIN)/python -m bench.kernel

clean:
	rm -rf $(VENV) .bench-venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no virtual environment: apt install python3-venv"; exit 1; }
	@echo "installing into $(VENV)..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[capture,dev,fat,kernel,lab]'
	@touch $(READY)
