// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
]

let command = TargetDependencyCondition.when(traits: ["Command"])
let server = TargetDependencyCondition.when(traits: ["Server"])

let package = Package(
  name: "regispay",
  products: [
    .library(name: "LogStore", targets: ["LogStore"]),
    .library(name: "LogStoreCodable", targets: ["LogStoreCodable"]),
    .executable(name: "logstore", targets: ["LogStoreCommand"]),
    .executable(name: "regispay", targets: ["RegisPayCommand"]),
    .executable(name: "bench", targets: ["Bench"]),
  ],
  // All are on by default. A package that takes the library LogStore alone asks for none of them, and then fetches nothing else.
  traits: [
    .default(enabledTraits: ["Benchmark", "Command", "Server"]),
    .trait(name: "Benchmark", description: "The program bench", enabledTraits: ["Server"]),
    .trait(name: "Command", description: "The program logstore"),
    .trait(name: "Server", description: "The program regispay"),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
    .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.2"),
    .package(url: "https://github.com/apple/swift-nio-http2", from: "1.46.0"),
    .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
    .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
  ],
  targets: [
    // The CRC-32C instruction and its portable twin.
    .target(name: "CChecksum"),
    // System calls that Swift's own view of glibc leaves out.
    .target(name: "CLinux"),
    // The system's liblz4.
    .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    .target(
      name: "LogStore",
      dependencies: ["CChecksum", "CLinux", "CLZ4"],
      // Lifetimes: borrowed reads hand out spans that the compiler keeps from outliving the event.
      swiftSettings: strict + [.enableExperimentalFeature("Lifetimes")]),
    // Payloads as Codable values, for those who want them.
    .target(name: "LogStoreCodable", dependencies: ["LogStore"], swiftSettings: strict),
    // The settings of glibc's allocator, which Swift's own overlay leaves out.
    .systemLibrary(name: "CMalloc"),
    // What a program does before anything else.
    .target(name: "CStart"),
    .executableTarget(
      name: "LogStoreCommand",
      dependencies: [
        "CMalloc", "CStart", "LogStore",
        .product(name: "ArgumentParser", package: "swift-argument-parser", condition: command),
      ],
      swiftSettings: strict),
    // The system's zlib.
    .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
    // SQLite without a mapped file beside a database.
    .target(name: "CWALIndex", linkerSettings: [.linkedLibrary("sqlite3")]),
    .target(
      name: "RegisPay",
      dependencies: [
        "CLinux", "CMalloc", "CWALIndex", "CZlib", "LogStore",
        .product(name: "DequeModule", package: "swift-collections", condition: server),
        .product(name: "HeapModule", package: "swift-collections", condition: server),
        .product(name: "Crypto", package: "swift-crypto", condition: server),
        .product(name: "Logging", package: "swift-log", condition: server),
        .product(name: "CoreMetrics", package: "swift-metrics", condition: server),
        .product(name: "Hummingbird", package: "hummingbird", condition: server),
        .product(name: "GRDB", package: "GRDB.swift", condition: server),
        .product(name: "GRDBSQLite", package: "GRDB.swift", condition: server),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle", condition: server),
        .product(name: "NIOCore", package: "swift-nio", condition: server),
        .product(name: "NIOHTTP1", package: "swift-nio", condition: server),
        .product(name: "NIOHTTP2", package: "swift-nio-http2", condition: server),
        .product(name: "NIOPosix", package: "swift-nio", condition: server),
        .product(name: "NIOTLS", package: "swift-nio", condition: server),
        .product(name: "NIOHTTPTypes", package: "swift-nio-extras", condition: server),
        .product(name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras", condition: server),
        .product(name: "NIOHTTPTypesHTTP2", package: "swift-nio-extras", condition: server),
        .product(name: "NIOSSL", package: "swift-nio-ssl", condition: server),
        .product(name: "HTTPTypes", package: "swift-http-types", condition: server),
        .product(name: "Yams", package: "Yams", condition: server),
      ],
      resources: [
        .embedInCode("HTTP/OpenAPI/openapi.json"), .embedInCode("Web/page.css"), .embedInCode("Web/page.html"),
        .embedInCode("Web/actions.js"), .embedInCode("Web/api.js"), .embedInCode("Web/batches.js"),
        .embedInCode("Web/create.js"),
        .embedInCode("Web/dom.js"),
        .embedInCode("Web/format.js"), .embedInCode("Web/live.js"), .embedInCode("Web/log.js"),
        .embedInCode("Web/main.js"), .embedInCode("Web/overview.js"), .embedInCode("Web/parts.js"),
        .embedInCode("Web/payment.js"), .embedInCode("Web/payments.js"), .embedInCode("Web/processing.js"),
        .embedInCode("Web/settings.js"), .embedInCode("Web/simulator.js"), .embedInCode("Web/system.js"),
        .embedInCode("Web/text.js"), .embedInCode("Web/text-de.js"), .embedInCode("Web/text-en.js"),
        .embedInCode("Web/webhooks.js"),
      ],
      swiftSettings: strict),
    .executableTarget(
      name: "RegisPayCommand",
      dependencies: [
        "CStart", "LogStore", "RegisPay",
        .product(name: "ArgumentParser", package: "swift-argument-parser", condition: server),
        .product(name: "CoreMetrics", package: "swift-metrics", condition: server),
        .product(name: "Logging", package: "swift-log", condition: server),
        .product(name: "UnixSignals", package: "swift-service-lifecycle", condition: server),
      ],
      swiftSettings: strict),
    // The engines that the benchmark runs beside LogStore; Debian's libraries.
    .systemLibrary(name: "CSQLite", providers: [.apt(["libsqlite3-dev"])]),
    .systemLibrary(name: "CLMDB", providers: [.apt(["liblmdb-dev"])]),
    .systemLibrary(name: "CRocksDB", providers: [.apt(["librocksdb-dev"])]),
    .executableTarget(
      name: "Bench",
      dependencies: [
        "CChecksum", "CLMDB", "CRocksDB", "CSQLite", "LogStore", "RegisPay",
        .product(name: "ArgumentParser", package: "swift-argument-parser", condition: server),
        .product(name: "Logging", package: "swift-log", condition: server),
        .product(name: "Histogram", package: "hdrhistogram-swift", condition: server),
      ],
      swiftSettings: strict),
    .testTarget(
      name: "LogStoreTests", dependencies: ["CChecksum", "CLinux", "LogStore", "LogStoreCodable"], swiftSettings: strict
    ),
    // Random numbers by a seed that a test prints and can be given.
    .target(name: "SeededRandom", path: "Tests/SeededRandom", swiftSettings: strict),
    .testTarget(
      name: "RegisPayTests",
      dependencies: [
        "RegisPay",
        "SeededRandom",
        .product(name: "CoreMetrics", package: "swift-metrics", condition: server),
        .product(name: "GRDB", package: "GRDB.swift", condition: server),
        .product(name: "Logging", package: "swift-log", condition: server),
        .product(name: "Hummingbird", package: "hummingbird", condition: server),
        .product(name: "AsyncHTTPClient", package: "async-http-client", condition: server),
        .product(name: "NIOCore", package: "swift-nio", condition: server),
        .product(name: "NIOEmbedded", package: "swift-nio", condition: server),
        .product(name: "NIOPosix", package: "swift-nio", condition: server),
      ],
      swiftSettings: strict),
    // The whole of LogStore on a simulated disk, with a simulated clock and scheduler. `Optimised` is a package of its own.
    .target(name: "CFibers", path: "Tests/CFibers"),
    .testTarget(
      name: "LogStoreSimulation", dependencies: ["CFibers", "CLinux", "LogStore"], exclude: ["Optimised", "planted"],
      swiftSettings: strict),
    // In front of the C library's allocator, for the tests that count.
    .target(name: "CAllocationCount", path: "Tests/CAllocationCount"),
    .testTarget(
      name: "AllocationTests", dependencies: ["CAllocationCount", "LogStore"],
      // As a program that is shipped: without optimisation the compiler puts what is borrowed into boxes of its own.
      swiftSettings: strict + [.unsafeFlags(["-O"])]),
    // A process for the tests below to kill.
    .executableTarget(
      name: "ManyWriters", dependencies: ["LogStore"], path: "Tests/ManyWriters", swiftSettings: strict),
    // Real processes, real files, real `kill -9`.
    .testTarget(
      name: "EndToEndTests",
      dependencies: [
        "LogStoreCommand", "RegisPayCommand", "Bench", "ManyWriters",
        .product(name: "AsyncHTTPClient", package: "async-http-client", condition: server),
        .product(name: "NIOCore", package: "swift-nio", condition: server),
      ],
      exclude: ["Support", "OlderStores"],
      swiftSettings: strict),
  ]
)
