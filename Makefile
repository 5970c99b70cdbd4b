# `make run` and `make test` do everything on a Debian machine that has a Swift toolchain; the other targets are for work
# on the code. DIR, HOST and PORT say where `make run` keeps its data and listens.

DIR ?= data
HOST ?= 127.0.0.1
PORT ?= 8080
ARGUMENTS ?=

# What building needs, and what the tests need beside it.
BUILD_PACKAGES = liblz4-dev libsqlite3-dev pkg-config
# The engines that the benchmark runs beside LogStore; the tests build it too.
BENCH_PACKAGES = $(BUILD_PACKAGES) liblmdb-dev librocksdb-dev
TEST_PACKAGES = $(BENCH_PACKAGES) strace chromium python3

.PHONY: run test soak bench format lint clean build-dependencies bench-dependencies test-dependencies

run: build-dependencies
	swift build -c release --product regispay
	.build/release/regispay serve --dir $(DIR) --host $(HOST) --port $(PORT) $(ARGUMENTS)

test: test-dependencies lint
	swift build --build-tests
	swift test --skip-build --filter LogStoreTests
	swift test --skip-build --filter AllocationTests
	swift test --skip-build --filter RegisPayTests
	swift test --skip-build --no-parallel --filter EndToEndTests

# The same tests with the long settings: hours, not minutes.
soak: test-dependencies
	swift build --build-tests
	LOGSTORE_SIMULATIONS=200000 swift test --skip-build --filter LogStoreTests
	LOGSTORE_KILL_ROUNDS=2000 REGISPAY_KILL_ROUNDS=10 swift test --skip-build --no-parallel --filter EndToEndTests

bench: bench-dependencies
	swift build -c release --product bench
	.build/release/bench all --peers sqlite,lmdb,rocksdb --out bench-report.html $(ARGUMENTS)

format:
	swift format --in-place --recursive --parallel Package.swift Sources Tests

lint:
	swift format lint --strict --recursive --parallel Package.swift Sources Tests

clean:
	swift package clean

build-dependencies:
	@.ci/install $(BUILD_PACKAGES)

bench-dependencies:
	@.ci/install $(BENCH_PACKAGES)

test-dependencies:
	@.ci/install $(TEST_PACKAGES)
