import Foundation
import Testing

/// The package, as its users take it.
@Suite struct PackageTests {
  @Test("LogStore alone fetches no other package, and the README's example does what it says")
  func logStoreAlone() async throws {
    try await withTemporaryFolder { folder in
      let repository = CommandBlock.repository.path
      let readme = try String(contentsOfFile: repository + "/README.md", encoding: .utf8)
      let blocks = readme.matches(of: /```swift\n([\s\S]*?)```/).map { String($0.1) }
      let manifest = try #require(blocks.first { $0.hasPrefix("dependencies:") })
      let program = try #require(blocks.first { $0.hasPrefix("import LogStore") })
      let shop = folder + "/shop"
      try FileManager.default.createDirectory(atPath: shop + "/Sources/shop", withIntermediateDirectories: true)
      // The name of its folder is a package's identity.
      try FileManager.default.createSymbolicLink(atPath: folder + "/regispay", withDestinationPath: repository)
      try """
      // swift-tools-version: 6.2
      import PackageDescription
      let package = Package(name: "shop",
      \(manifest))
      """.write(toFile: shop + "/Package.swift", atomically: true, encoding: .utf8)
      try program.write(toFile: shop + "/Sources/shop/main.swift", atomically: true, encoding: .utf8)
      let build = try RegisPayProcess(program: "swift", ["build", "--package-path", shop], folder: folder)
      let built = try await build.waitForExit(within: .seconds(600))
      #expect(built == .init(code: 0, isSignal: false), "\(build.errorText)")
      let fetched = try FileManager.default.contentsOfDirectory(atPath: shop + "/.build/checkouts")
      #expect(fetched.isEmpty, "\(fetched)")
      // It follows the log until it is ended, as the example says. Through a pipe its lines come at once with stdbuf alone.
      let run = try RegisPayProcess(
        program: "env", ["-C", shop, "stdbuf", "-oL", shop + "/.build/debug/shop"], folder: shop)
      var lines: [String] = []
      while lines.count < 8, let line = try await run.nextLine(within: .seconds(60)) { lines.append(line) }
      let all = ["0 12", "1 0", "2 0"]
      #expect(lines == ["1 Placed", "2 Paid"] + all + all, "\(run.errorText)")
      run.signal(SIGTERM)
      #expect(try await run.waitForExit() == .init(code: SIGTERM, isSignal: true))
      let events = try await StoreUnderTest(shop + "/orders.log", in: try TemporaryDirectory()).dump()
      #expect(events.count == 3)
    }
  }

  @Test("each program says its version", arguments: ["regispay", "logstore"])
  func version(program: String) async throws {
    try await withTemporaryFolder { folder in
      let block = CommandBlock(document: "", heading: "", lines: ["\(program) --version"])
      let printed = try await block.run(in: folder)
      #expect(printed == "0.1.0\n")
    }
  }
}
