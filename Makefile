# Sets up a virtual environment and runs the two commands of the README, and a few more; `make help`
# lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo help test test-kernels test-pyusb soak check bench bench-kernel clean

demo: $(READY)  ## the gadgets, and the bug of 2019, in one page
	@$(BIN)/usbip-vudc demo

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

# Both lanes: pytest here, and pytest in the lab, on the kernel of /boot or Debian 12's.
test: check  ## both lanes of the tests, lint and types: some 25 minutes
	@$(BIN)/python -m tests.lane

# The kernel lane alone, on Debian 11's kernel, 12's, 13's and the newest of the archive.
test-kernels: $(READY)  ## the kernel lane on four kernels of Debian
	@$(BIN)/python -m tests.lane --kernels \
	  debian:bullseye debian:bookworm debian:trixie debian:newest

# PyUSB's own tests, fetched, against its test device: through our backend, and through libusb in
# the lab. python-functionfs's host script is part of the kernel lane.
test-pyusb: $(READY)  ## PyUSB's own tests against its test device
	@$(BIN)/python -m tests.pyusb_suite
	@$(BIN)/usbip-vudc lab -- $(CURDIR)/$(BIN)/python -m tests.pyusb_suite --linux

# Mixed traffic on a disk and serial ports, compared byte by byte, for 5 minutes or SOAK_SECONDS.
soak: $(READY)  ## mixed traffic for SOAK_SECONDS (300)
	@$(BIN)/python -m tests.soak

check: $(READY)  ## lint and types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: $(READY)  ## the server beside others, in userspace
	@$(BIN)/python -m bench

# In the lab, with a USB disk of QEMU's own beside ours.
bench-kernel: $(READY)  ## our functions beside the kernel's, in a virtual machine
	@$(BIN)/usbip-vudc lab --timeout 3600 --qemu "-device qemu-xhci \
	  -drive if=none,id=stick,driver=null-co,size=64M,read-zeroes=on \
	  -device usb-storage,drive=stick" -- $(CURDIR)/$(BIN)/python -m bench.kernel

clean:  ## remove what the others made
	rm -rf $(VENV) .bench-venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no virtual environment: apt install python3-venv"; exit 1; }
	@echo "installing into $(VENV)..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[capture,dev,fat,kernel,lab]'
	@touch $(READY)
