# SPDX-License-Identifier: Apache-2.0
# The names below are fixed: people and CI script against them.
.DEFAULT_GOAL := help
PY := .venv/bin/python

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

setup:  ## make .venv with the locked packages
	@scripts/setup

demo:  ## a pod from a real registry, from pull to removal (root)
	@scripts/setup --system
	@$(PY) demo/main.py

test:  ## every test (root): unit, kernel, contract, faults, security, and cgroup v2 in a virtual machine
	@scripts/setup --peers
	@scripts/test $(ARGS)

check:  ## lint, types, layers
	@scripts/setup
	@scripts/check

bench:  ## times and ratios against Debian's containerd, runc and docker (root)
	@scripts/setup --peers
	@$(PY) -m benchmarks $(ARGS)

faults:  ## only the tests that kill and break things (root)
	@scripts/setup --peers
	@scripts/test tests/faults $(ARGS)

.PHONY: help setup demo test check bench faults
