import NIOCore
import Testing

@testable import RegisPay

@Suite("Heads that have not arrived completely")
struct UnfinishedHeadsTests {
  private static let start = "GET / HTTP/1.1\r\nHost: a\r\nX: "
  private static let end = "\r\n\r\n"
  /// With ``start`` some 4,100 bytes, which count as 8,192.
  private static let half = String(repeating: "x", count: 4_070)

  /// Has room for nine halves.
  private let table = ConnectionTable(
    limit: 16, limitPerAddress: nil, unfinishedHeads: HeldBytes(.refusal(.head), limit: 9 * 8_192))
  private var byteCount: Int { table.unfinishedHeads.byteCount }

  @Test("are bounded together: those that have been unfinished longest get 503, and the others go on")
  func bounded() throws {
    let connections = try (0..<10).map { _ in try EmbeddedConnection(table) }
    for connection in connections { #expect(try connection.send(Self.start, Self.half) == "") }
    let responses = try connections.map { try $0.wait(.zero) }
    // An eighth of the limit is made free at once, when the last one begins.
    for refused in responses.prefix(2) {
      #expect(refused.hasPrefix("HTTP/1.1 503 Service Unavailable\r\n"), "\(refused)")
      for field in ["Retry-After: 1", "Content-Type: application/problem+json", "Connection: close"] {
        #expect(refused.contains("\r\n\(field)\r\n"), "\(field): \(refused)")
      }
    }
    #expect(responses.dropFirst(2).joined().isEmpty)
    #expect(byteCount == 8 * 8_192)
    #expect(try connections[9].send(Self.end).hasPrefix("HTTP/1.1 200 "))
    #expect(byteCount == 7 * 8_192)
    // The next request of the connection is counted again, from nothing.
    #expect(try connections[9].send(Self.start, Self.half) == "")
    #expect(byteCount == 8 * 8_192)
    for connection in connections { connection.close() }
    #expect(byteCount == 0)
  }

  @Test("above the limit may be the very one that arrives: it is refused while it is noted")
  func oneself() throws {
    let table = ConnectionTable(
      limit: 16, limitPerAddress: nil, unfinishedHeads: HeldBytes(.refusal(.head), limit: 4_096))
    let connection = try EmbeddedConnection(table)
    #expect(try connection.send(Self.start, Self.half).hasPrefix("HTTP/1.1 503 "))
    #expect(table.unfinishedHeads.byteCount == 0)
  }

  @Test("count no more once they are refused: too slow, too large, or no HTTP", arguments: [0, 1, 2])
  func refused(_ reason: Int) throws {
    let connection = try EmbeddedConnection(table)
    try connection.send(Self.start, Self.half)
    #expect(byteCount == 8_192)
    let response =
      switch reason {
      case 0: try connection.wait(.seconds(11))
      case 1: try connection.send(String(repeating: "x", count: 40_000))
      default: try connection.send("\r\nno field\r\n\r\n")
      }
    #expect(response.hasPrefix("HTTP/1.1 4"), "\(response)")
    #expect(byteCount == 0)
  }

  @Test("are none of those that arrive with one read, nor a body: these are served when the limit is reached, too")
  func complete() throws {
    let slow = try (0..<9).map { _ in try EmbeddedConnection(table) }
    for connection in slow { try connection.send(Self.start, Self.half) }
    let connection = try EmbeddedConnection(table)
    for _ in 0..<3 {
      #expect(try connection.send(Self.start + Self.half + Self.end).hasPrefix("HTTP/1.1 200 "))
    }
    let body = String(repeating: "x", count: 20_000)
    #expect(try connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n", body) == "")
    #expect(try connection.send(body).hasPrefix("HTTP/1.1 200 "))
    #expect(byteCount == 9 * 8_192)
    withExtendedLifetime(slow) {}
  }
}
