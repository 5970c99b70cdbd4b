import Foundation
import Testing

@testable import RegisPay

/// The pages' files as the server sends them.
@Suite struct PageTests {
  /// All modules that the first one leads to, by path.
  private func modules(_ server: TestServer) async throws -> [String: String] {
    var found: [String: String] = [:]
    var wanted = ["/assets/main.js"]
    while let path = wanted.popLast() {
      guard found[path] == nil else { continue }
      let response = try await server.get(path)
      #expect(response.status == 200, "\(path)")
      #expect(response.headers["content-type"] == "text/javascript; charset=utf-8")
      found[path] = response.text
      wanted += response.text.matches(of: /from "\.\/([a-z-]+\.js)"/).map { "/assets/\($0.output.1)" }
    }
    return found
  }

  @Test("every module that a module imports is there, and nothing is loaded from elsewhere")
  func complete() async throws {
    try await TestServer.run { server in
      let modules = try await modules(server)
      let files = try FileManager.default.contentsOfDirectory(atPath: Self.folder).filter { $0.hasSuffix(".js") }
      #expect(
        Set(modules.keys) == Set(files.map { "/assets/\($0)" }), "a file that nothing imports, or one that is not there"
      )
      for (path, text) in modules {
        #expect(
          text.firstMatch(of: /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\.style\b/) == nil,
          "\(path)")
      }
      #expect(try await server.get("/assets/other.js").status == 404)
    }
  }

  private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("../../../Sources/RegisPay/Web").standardized.path

  @Test("a browser that has a file gets no second copy of it, and a new one after an upgrade")
  func cached() async throws {
    try await TestServer.run { server in
      let first = try await server.get("/assets/main.js")
      let tag = try #require(first.headers["etag"])
      #expect(first.headers["cache-control"] == "no-cache")
      let again = try await server.send("GET", "/assets/main.js", headers: [("If-None-Match", tag)])
      #expect(again.status == 304 && again.text.isEmpty)
      let several = try await server.send("GET", "/assets/main.js", headers: [("If-None-Match", "\"other\", \(tag)")])
      #expect(several.status == 304)
      let older = try await server.send("GET", "/assets/main.js", headers: [("If-None-Match", "\"other\"")])
      #expect(older.status == 200 && older.text == first.text)
    }
  }

  @Test("the languages have the same texts, and every text that a page asks for is one of them")
  func texts() async throws {
    try await TestServer.run { server in
      let modules = try await modules(server)
      func names(_ language: String) throws -> [String] {
        try #require(modules["/assets/text-\(language).js"]).matches(of: /"([A-Za-z.]+)": (?:"|\{ one)/).map {
          String($0.output.1)
        }
      }
      let english = try names("en")
      #expect(Set(english).count == english.count)
      #expect(try names("de").sorted() == english.sorted())
      var asked: Set<String> = []
      for text in modules.values {
        asked.formUnion(text.matches(of: /\bt\("([A-Za-z.]+)"/).map { String($0.output.1) })
      }
      #expect(asked.count > 100 && asked.isSubset(of: english), "\(asked.subtracting(english))")
      for status in PaymentStatus.allCases { #expect(english.contains("status.\(status.rawValue)")) }
      for step in PaymentStep.allCases { #expect(english.contains("step.\(step.rawValue)")) }
      for type in PaymentEvent.TypeName.allCases { #expect(english.contains("event.\(type.rawValue)"), "\(type)") }
    }
  }
}
