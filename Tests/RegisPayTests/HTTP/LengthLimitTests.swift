import Foundation
import Testing

@testable import RegisPay

/// JSON Schema counts a text's length in code points.
@Suite("Every length that the OpenAPI document allows")
struct LengthLimitTests {
  /// A schema with `maxLength`.
  private struct Limited {
    /// The names on the way to it through the document.
    var path: [String]
    var schema: JSONValue

    /// Nil for a schema without one.
    var limit: Int? { if case .number(let text)? = schema["maxLength"] { Int(text) } else { nil } }

    func allows(_ text: String) throws -> Bool {
      if let limit, text.unicodeScalars.count > limit { return false }
      guard let pattern = schema["pattern"]?.text else { return true }
      return try Regex(pattern).matchingSemantics(.unicodeScalar).wholeMatch(in: text) != nil
    }
  }

  private func limits(in value: JSONValue, path: [String] = []) -> [Limited] {
    switch value {
    case .object(let members):
      let own = [Limited(path: path, schema: value)].filter { $0.limit != nil }
      return own + members.flatMap { limits(in: $0.value, path: path + [$0.key]) }
    case .array(let values):
      return values.flatMap { limits(in: $0, path: path + ($0["name"]?.text.map { [$0] } ?? [])) }
    default: return []
    }
  }

  /// How a text of each is sent, and whether it was accepted.
  private typealias Sending = (_ text: String) async throws -> Bool

  private func sendings(_ server: TestServer, webhook: String) -> [[String]: Sending] {
    func send(_ method: String, _ path: String, _ body: JSONValue) async throws -> Bool {
      let response = try await server.send(
        method, path, headers: [("Content-Type", "application/json")], body: body.bytes)
      #expect((200..<300).contains(response.status) || response.status == 400, "\(response.text)")
      return response.status < 300
    }
    let (post, patch) = (["/api/v1/webhooks", "post"], ["/api/v1/webhooks/{id}", "patch"])
    var sendings: [[String]: Sending] = [:]
    for name in ["search", "reason"] {
      for path in ["/api/v1/payments", "/api/v1/payments/export", "/api/v1/payments/count"] {
        sendings[[path, "get", name]] = { text in
          let query = text.utf8.map { String(format: "%%%02X", $0) }.joined()
          return try await server.get("\(path)?\(name)=\(query)").status == 200
        }
      }
      sendings[["NewBatch", "filter", name]] = { text in
        let filter: JSONValue = .object([.init(name, .string(text))])
        return try await send("POST", "/api/v1/batches/cancel", ["filter": filter])
      }
    }
    for name in ["stream", "type"] {
      sendings[["/api/v1/log/events", "get", name]] = { text in
        let query = text.utf8.map { String(format: "%%%02X", $0) }.joined()
        return try await server.get("/api/v1/log/events?\(name)=\(query)").status == 200
      }
    }
    let others: [[String]: Sending] = [
      post + ["description"]: {
        try await send("POST", post[0], ["url": "https://a.com/", "description": .string($0)])
      },
      patch + ["description"]: { try await send("PATCH", "\(post[0])/\(webhook)", ["description": .string($0)]) },
      ["Resolution", "reference"]: {
        (try? ResolveRequest(["step": "create", "outcome": "happened", "reference": .string($0)])) != nil
      },
    ]
    return sendings.merging(others) { $1 }
  }

  @Test("is allowed in full, in whatever script, and no code point more")
  func held() async throws {
    let noise: Set = ["paths", "components", "schemas", "parameters", "schema", "requestBody", "content", "properties"]
    try await TestServer.run { server in
      let hook = try await server.send(
        "POST", "/api/v1/webhooks", headers: [("Content-Type", "application/json")],
        body: Array(#"{"url":"https://example.com/hook"}"#.utf8))
      let sendings = self.sendings(server, webhook: try #require(try hook.json()["id"]?.text))
      let limits = limits(in: try JSONReader.read(PackageResources.openapi_json))
      func name(_ limit: Limited) -> [String] {
        limit.path.filter { !noise.contains($0) && $0 != "application/json" && $0 != "oneOf" }
      }
      #expect(Set(limits.map(name)) == Set(sendings.keys), "each limit is tried here")
      for limit in limits {
        let send = try #require(sendings[name(limit)], "\(limit.path)")
        let most = try #require(limit.limit)
        // One, two, three and four bytes; a letter of two code points; nine of them that are shown as one.
        for letter in ["a", "é", "漢", "🙂", "e\u{301}", "👨‍👩‍👧‍👦"] {
          for count in [most, most + 1] {
            let text = String(String(repeating: letter, count: count).unicodeScalars.prefix(count))
            let isAllowed = try limit.allows(text)
            // A pattern may be stricter than the server, and never laxer.
            guard isAllowed || count > most else { continue }
            #expect(try await send(text) == isAllowed, "\(limit.path): \(count) code points of \(letter)")
          }
        }
      }
    }
  }
}
