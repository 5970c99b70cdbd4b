# `make run` and `make test` do everything on a Debian machine that has a Swift toolchain; the other targets are for work
# on the code. DIR, HOST and PORT say where `make run` keeps its data and listens.

DIR ?= data
HOST ?= 127.0.0.1
PORT ?= 8080
ARGUMENTS ?=
SIMULATIONS ?= 20000
# The folders from the bottom up; none refers to one above it: docs/ARCHITECTURE.md.
LOGSTORE_LAYERS = Types,Disk,Format,Segment,Index,Log,Commit,Backup,Repair,Store,Subscription
REGISPAY_LAYERS = Foundation,Configuration,Telemetry,JSON,Logging,SQLite,Payment,Store,Security,Providers,OTLP,Tracing,Activity,Projection,Batches,Processing,Webhooks,AMQP,Broker,$\
	HTTPServer,HTTP,Web,Simulator,Client,Load,Worker,Server,Diagnosis
# The package manager passes traits to the compiler in the order of a hash table. With hashes of a new seed each time, the
# command lines differ, and every build would compile Hummingbird and all above it again. Only for builds: a server's hashes need
# their random seed.
SWIFT_BUILD = SWIFT_DETERMINISTIC_HASHING=1 swift build

# What building needs, and what the tests need beside it.
BUILD_PACKAGES = liblz4-dev libsqlite3-dev pkg-config zlib1g-dev
# The engines that the benchmark runs beside LogStore; the tests build it too.
BENCH_PACKAGES = $(BUILD_PACKAGES) liblmdb-dev librocksdb-dev
# strace, cc and FUSE: what processes ask of the system is watched, refused and recorded; file systems to cut the power of.
# A Python environment and openssl: a package of PyPI verifies webhooks, and they go over TLS.
# curl, ab, wrk and h2load: HTTP clients that others wrote. prometheus: what reads the metrics, and checks them.
# rabbitmq-server: a broker, which the tests start for themselves; amqp-tools: clients of it.
TEST_PACKAGES = $(BENCH_PACKAGES) strace chromium python3 python3-venv openssl ca-certificates gcc libc6-dev libfuse3-dev \
	mount util-linux e2fsprogs xfsprogs btrfs-progs patch curl apache2-utils wrk nghttp2-client prometheus \
	rabbitmq-server amqp-tools

.PHONY: run test soak one-core hanging restore-drill screenshots simulate planted-bugs fuzz fuzz-briefly sanitize bench deb deb-test format lint clean build-dependencies \
	bench-dependencies test-dependencies

run: build-dependencies
	@echo "Building RegisPay: 7 to 10 minutes on two cores the first time, then some seconds."
	$(SWIFT_BUILD) -c release --product regispay
	.build/release/regispay serve --dir $(DIR) --host $(HOST) --port $(PORT) $(ARGUMENTS)

# As `swift test` runs them, in one process, which a limit can end: a test that never ends would otherwise say nothing at all.
UNIT_TESTS = timeout --foreground --verbose 2400 .build/debug/regispayPackageTests.xctest --testing-library swift-testing --filter

test: test-dependencies lint
	$(SWIFT_BUILD) --build-tests
	$(UNIT_TESTS) LogStoreTests
	$(UNIT_TESTS) LogStoreSimulation
	$(MAKE) simulate
	$(UNIT_TESTS) AllocationTests
	$(UNIT_TESTS) RegisPayTests
	Tests/EndToEndTests/Support/run
	$(MAKE) fuzz-briefly

# The same tests with the long settings: hours, not minutes.
soak: test-dependencies
	$(SWIFT_BUILD) --build-tests
	LOGSTORE_SIMULATIONS=200000 LOGSTORE_DAMAGES=2000 swift test --skip-build --filter LogStoreTests
	$(MAKE) simulate SIMULATIONS=3000000
	$(MAKE) planted-bugs
	$(MAKE) one-core
	LOGSTORE_KILL_ROUNDS=2000 LOGSTORE_FAULT_ROUNDS=0 LOGSTORE_CRASH_STATES=2000 LOGSTORE_DAMAGES=2000 \
		TEST_REGISPAY_KILL_ROUNDS=10 TEST_REGISPAY_FAULT_ROUNDS=50 TEST_REGISPAY_API_EXAMPLES=300 swift test --skip-build --no-parallel --filter EndToEndTests
	$(MAKE) hanging
	$(MAKE) restore-drill

# The tests in one process, with one thread for all tasks: a test that blocks it does not end within the limit.
one-core: test-dependencies
	$(SWIFT_BUILD) --build-tests
	cc -Wall -Wextra -Werror -shared -fPIC -o .build/cores.so Tests/OneCore/cores.c -ldl
	for tests in LogStoreTests LogStoreSimulation AllocationTests RegisPayTests; do \
	  LD_PRELOAD=$$PWD/.build/cores.so $(UNIT_TESTS) "$$tests\\." || exit 1; done

# Payments while a share of them hangs at the PSP, five minutes each, on the release build.
HANGING = Tests/EndToEndTests/Support/hanging_load.py --program .build/release/regispay --seconds $(HANGING_SECONDS)
HANGING_SECONDS ?= 300

hanging: build-dependencies
	$(SWIFT_BUILD) -c release --product regispay
	for trouble in "" "--errors 0.2" "--kill"; do for load in "--rate 20 --hang 0.3" "--rate 100 --hang 0.05" \
	  "--rate 1000 --hang 0.01"; do $(HANGING) $$load $$trouble || exit 1; done; done

# Continuous backups under load, the data directory deleted, restored and started, on the release build.
restore-drill: build-dependencies
	$(SWIFT_BUILD) -c release --product regispay
	Tests/EndToEndTests/Support/restore_drill.py --program .build/release/regispay --rate 1000 --seconds 180 --every 30

# The whole of LogStore on a simulated machine, optimised: so many histories, see docs/SIMULATION.md.
simulate: build-dependencies
	$(SWIFT_BUILD) -c release --package-path Tests/LogStoreSimulation/Optimised --scratch-path .build/simulation
	.build/simulation/release/simulate $(SIMULATIONS)

# Whether the simulation finds the bugs in Tests/LogStoreSimulation/planted, and after how many histories.
planted-bugs: test-dependencies
	Tests/LogStoreSimulation/planted/run

# Inputs made up by libFuzzer, guided by coverage, under the address sanitizer: FUZZ_SECONDS for each target, two at a
# time. What is found is left in .build/fuzz/findings; new inputs in .build/fuzz/corpus, beside those of Tests/Fuzz/Corpus.
# fuzz-briefly starts from Tests/Fuzz/Corpus alone and from a fixed seed.
FUZZ_SECONDS ?= 600

fuzz: build-dependencies
	Tests/Fuzz/run $(FUZZ_SECONDS)

fuzz-briefly: build-dependencies
	Tests/Fuzz/run brief

# Pictures of every page in both themes and two widths, in .build/screenshots.
screenshots: test-dependencies
	$(SWIFT_BUILD) --product regispay
	Tests/EndToEndTests/Support/screenshots.py --program .build/debug/regispay .build/screenshots

# The tests once more under each sanitizer; what they find ends them. Allocations are not counted then (the sanitizers
# have an allocator of their own), and limits on memory and time are not the program's own. The thread sanitizer has to be
# told what contended mutexes order: Tests/Sanitizers.
sanitize: test-dependencies
	$(SWIFT_BUILD) --build-tests --sanitize=address --scratch-path .build-address
	SWIFT_BACKTRACE=enable=no ASAN_OPTIONS=detect_leaks=0 \
	  swift test --skip-build --sanitize=address --scratch-path .build-address --filter LogStoreTests
	$(SWIFT_BUILD) --build-tests --sanitize=thread --scratch-path .build-thread
	"$$(dirname "$$(command -v swift)")/clang" -O1 -Wall -Wextra -Werror -shared -fPIC -o .build-thread/mutexes.so \
	  Tests/Sanitizers/mutexes.c -ldl
	SWIFT_BACKTRACE=enable=no LD_PRELOAD=$$PWD/.build-thread/mutexes.so \
	  TSAN_OPTIONS=halt_on_error=1:suppressions=Tests/Sanitizers/thread.txt \
	  .build-thread/debug/regispayPackageTests.xctest --testing-library swift-testing --filter LogStoreTests

bench: bench-dependencies
	$(SWIFT_BUILD) -c release --product bench
	.build/release/bench all --peers sqlite,lmdb,rocksdb --out bench-report.html $(ARGUMENTS)

# A Debian package in .build/deb: see docs/INSTALL.md. deb-test installs it in a fresh Debian, as root.
DEB_PACKAGES = $(BUILD_PACKAGES) debhelper help2man

deb:
	@.ci/install $(DEB_PACKAGES)
	rm -rf .build/deb && mkdir -p .build/deb
	debian/rules clean binary

deb-test: deb
	@.ci/install debootstrap lintian systemd curl
	Tests/Packaging/run .build/deb/regispay_*.deb

format:
	swift format --in-place --recursive --parallel Package.swift Sources Tests

lint:
	swift format lint --strict --recursive --parallel Package.swift Sources Tests
	Tests/Layers/arrows Sources/LogStore --quiet --order $(LOGSTORE_LAYERS)
	Tests/Layers/arrows Sources/RegisPay --quiet --order $(REGISPAY_LAYERS)

clean:
	swift package clean

build-dependencies:
	@.ci/install $(BUILD_PACKAGES)

bench-dependencies:
	@.ci/install $(BENCH_PACKAGES)

test-dependencies:
	@.ci/install $(TEST_PACKAGES)
