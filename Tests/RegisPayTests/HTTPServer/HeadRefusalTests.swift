import NIOCore
import Testing

@testable import RegisPay

@Suite("A request that is refused at its head")
struct HeadRefusalTests {
  private static let problem = Problem(
    status: .unauthorized, name: "unauthorized", detail: "No.",
    headers: [.init(name: .wwwAuthenticate, value: "Bearer")])
  private static let head = "POST /refused HTTP/1.1\r\nHost: a\r\n"

  private let table = ConnectionTable(limit: 8, limitPerAddress: nil)

  private func connect() throws -> EmbeddedConnection {
    try EmbeddedConnection(table) { head, _ in head.path == "/refused" ? Self.problem : nil }
  }

  private func statuses(_ text: String) -> [String] {
    text.matches(of: #/HTTP\/1\.1 ([0-9]{3}) /#).map { String($0.1) }
  }

  @Test(
    "gets the response before its body, which is not kept, and the connection ends",
    arguments: [
      "Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n",
      "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
    ])
  func refused(_ fields: String) throws {
    let connection = try connect()
    let response = try connection.send(Self.head + fields)
    #expect(response.hasPrefix("HTTP/1.1 401 Unauthorized\r\n"), "and no 100 before it: \(response)")
    for field in ["WWW-Authenticate: Bearer", "Content-Type: application/problem+json", "Connection: close", "Date: "] {
      #expect(response.contains("\r\n\(field)"), "\(field): \(response)")
    }
    #expect(response.hasSuffix(String(decoding: Self.problem.json.bytes, as: UTF8.self)))
    #expect(try connection.send(String(repeating: "x", count: 1_000), "POST /other HTTP/1.1\r\n\r\n") == "")
    #expect(connection.bodies.isEmpty && table.unfinishedBodies.byteCount == 0)
    #expect(try connection.wait(.seconds(3)) == "" && !connection.channel.isActive)
    #expect(table.count == 0)
  }

  @Test("is refused in its turn, and nothing after it is a request")
  func pipelined() throws {
    let connection = try connect()
    let first = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none"
    let response = try connection.send(first + Self.head + "Content-Length: 3\r\n\r\ntwo" + first)
    #expect(statuses(response) == ["200", "401"], "\(response)")
    #expect(connection.bodies == ["one"])
  }

  @Test("is asked about only if it has a body: without one it costs nothing")
  func bodyless() throws {
    let connection = try connect()
    for fields in ["\r\n", "Content-Length: 0\r\n\r\n"] {
      #expect(statuses(try connection.send(Self.head + fields)) == ["200"], "\(fields)")
    }
    #expect(connection.channel.isActive)
  }
}
