# make check   before every commit: format, lints, unit tests
# make test    everything, on a fresh Debian machine as root: installs what is missing, builds, lints, unit and
#              integration tests, the conformance of the broker in memory, then the suite on real clusters; SCALE=1
#              for its full loads
# make run     two real clusters and the bridge between them, until Ctrl-C

STEPS = setup fmt clippy unit integration doc build judge conformance suite clusters_down

.PHONY: check test run clean-testbed

check:
	testbed/steps fmt clippy unit

test:
	testbed/steps $(STEPS)

run:
	testbed/setup
	cargo build --locked --release
	testbed/demo

clean-testbed:
	testbed/clusters down
