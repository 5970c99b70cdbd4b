// swift-tools-version: 6.2
import PackageDescription

// The simulation as an optimised program: a million histories in an hour instead of a day. The same sources as the package
// above, through links; a package of its own, since what only tests may see is compiled in, and nothing else is needed.

let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .unsafeFlags(["-enable-testing"]),
]

let package = Package(
  name: "simulate",
  targets: [
    .target(name: "CChecksum"),
    .target(name: "CLinux"),
    .target(name: "CFibers"),
    .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    .target(
      name: "LogStore", dependencies: ["CChecksum", "CLinux", "CLZ4"],
      swiftSettings: settings + [.enableExperimentalFeature("Lifetimes")]),
    .executableTarget(name: "simulate", dependencies: ["CFibers", "CLinux", "LogStore"], swiftSettings: settings),
  ]
)
