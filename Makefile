# make check   before every commit: format, lints, unit tests
# make test    everything, on a fresh Debian machine as root: installs what is missing, builds, lints, unit and
#              integration tests, a brief bench, the tunnel through real servers, the conformance of the broker in
#              memory, then on real clusters every kind of message, the suite (SCALE=1 for its full loads) and every kind of fault once
# make bench   all relay benches, about four minutes, and docs/bench/ made anew of them
# make run     two real clusters and the bridge between them, until Ctrl-C

STEPS = setup fmt clippy unit integration doc build bench judge tunnel conformance kinds suite faults clusters_down

.PHONY: check test bench run clean-testbed

check:
	testbed/steps fmt clippy unit

test:
	testbed/steps $(STEPS)

bench:
	cargo bench --locked --bench relay
	cp $${CARGO_TARGET_DIR:-target}/bench/results.json docs/bench/results.json
	$${CARGO_TARGET_DIR:-target}/release/bridge perf report docs/bench/results.json --out docs/bench

run:
	testbed/setup
	cargo build --locked --release
	testbed/demo

clean-testbed:
	testbed/clusters down
