// swift-tools-version: 6.2
import PackageDescription

// The code that reads what others wrote, built anew with coverage counters and the address sanitizer in all of it, C too,
// and a program that feeds it. Apart from the main package, whose products must not be built like this. The folders of
// Sources that are named after the main package's are links to them: `make fuzz`.

let sanitizers = ["-sanitize=fuzzer", "-sanitize=address"]
// What `-sanitize=fuzzer` means in C; in Swift it links the library and counts nothing.
let coverage = ["-sanitize-coverage=edge,inline-8bit-counters,pc-table,trace-cmp"]

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableExperimentalFeature("Lifetimes"),
]
// Optimised, since a hundred times as many inputs are worth more than a clearer trace; what is internal is tested too.
let tested = strict + [.unsafeFlags(sanitizers + coverage + ["-O", "-enable-testing"])]

let package = Package(
  name: "fuzz",
  // The versions are the main package's: `run` copies its Package.resolved.
  dependencies: [
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.2"),
    .package(url: "https://github.com/apple/swift-nio-http2", from: "1.46.0"),
    .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
  ],
  targets: [
    .target(name: "CChecksum", cSettings: [.unsafeFlags(["-fsanitize=fuzzer-no-link,address"])]),
    .target(name: "CLinux"),
    .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    // Poisoning memory by hand, which has no module of its own.
    .target(name: "CSanitizer", cSettings: [.unsafeFlags(["-fsanitize=address"])]),
    .target(name: "LogStore", dependencies: ["CChecksum", "CLinux", "CLZ4"], swiftSettings: tested),
    .target(name: "LogStoreCommandParts", dependencies: ["LogStore"], swiftSettings: tested),
    .target(
      name: "RegisPayParts",
      dependencies: [
        .product(name: "DequeModule", package: "swift-collections"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
        .product(name: "NIOHTTP2", package: "swift-nio-http2"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "NIOHTTPTypes", package: "swift-nio-extras"),
        .product(name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras"),
        .product(name: "NIOHTTPTypesHTTP2", package: "swift-nio-extras"),
        .product(name: "HTTPTypes", package: "swift-http-types"),
      ],
      swiftSettings: tested),
    .executableTarget(
      name: "Fuzz",
      dependencies: [
        "CChecksum", "CSanitizer", "LogStore", "LogStoreCommandParts", "RegisPayParts",
        .product(name: "HTTPTypes", package: "swift-http-types"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOEmbedded", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
      ],
      // Not counted itself.
      swiftSettings: strict + [.unsafeFlags(["-O"])],
      // gold, the toolchain's usual linker here, ends with an internal error on the sanitizer's archive.
      linkerSettings: [.unsafeFlags(sanitizers + ["-use-ld=lld"])]),
  ]
)
