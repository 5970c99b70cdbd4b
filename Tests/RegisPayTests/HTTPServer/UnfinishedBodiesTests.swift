import NIOCore
import NIOEmbedded
import Synchronization
import Testing

@testable import RegisPay

@Suite("Bodies that have not arrived completely")
struct UnfinishedBodiesTests {
  private static let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n"
  /// What ByteBuffer holds for half of them.
  private static let halfBytes = 32_768
  private static let half = String(repeating: "x", count: 20_000)

  /// Has room for nine halves.
  private let table = ConnectionTable(
    limit: 16, limitPerAddress: nil, unfinishedBodies: HeldBytes(.refusal(.body), limit: 9 * halfBytes))
  private var byteCount: Int { table.unfinishedBodies.byteCount }

  @Test("are bounded together: those that have been unfinished longest get 503, and the others go on")
  func bounded() throws {
    let connections = try (0..<10).map { _ in try EmbeddedConnection(table) }
    for connection in connections.prefix(9) { #expect(try connection.send(Self.head, Self.half) == "") }
    #expect(byteCount == 9 * Self.halfBytes)
    #expect(try connections[9].send(Self.head, Self.half) == "")
    let responses = try connections.map { try $0.wait(.zero) }
    // An eighth of the limit is made free at once.
    for refused in responses.prefix(3) {
      #expect(refused.hasPrefix("HTTP/1.1 503 Service Unavailable\r\n"), "\(refused)")
      for field in ["Retry-After: 1", "Content-Type: application/problem+json", "Connection: close"] {
        #expect(refused.contains("\r\n\(field)\r\n"), "\(field): \(refused)")
      }
    }
    #expect(responses.dropFirst(3).joined().isEmpty)
    #expect(byteCount == 7 * Self.halfBytes)
    for connection in connections.dropFirst(3) {
      #expect(try connection.send(Self.half).hasPrefix("HTTP/1.1 200 "))
    }
    #expect(byteCount == 0)
    #expect(
      connections.map(\.bodies) == Array(repeating: [], count: 3) + Array(repeating: [Self.half + Self.half], count: 7))
  }

  @Test("above the limit may be the very one that arrives: it is refused while it is noted")
  func oneself() throws {
    let table = ConnectionTable(
      limit: 16, limitPerAddress: nil, unfinishedBodies: HeldBytes(.refusal(.body), limit: Self.halfBytes / 2))
    let connection = try EmbeddedConnection(table)
    #expect(try connection.send(Self.head, Self.half).hasPrefix("HTTP/1.1 503 "))
    #expect(table.unfinishedBodies.byteCount == 0)
  }

  @Test("count what each connection holds, once, and nothing when it ends")
  func counted() throws {
    let connection = try EmbeddedConnection(table)
    try connection.send(Self.head)
    #expect(byteCount == 0)
    for (sent, held) in [(1, 1), (1, 2), (998, 1_024), (1_000, 2_048), (1, 2_048)] {
      try connection.send(String(repeating: "x", count: sent))
      #expect(byteCount == held)
    }
    connection.close()
    #expect(byteCount == 0)
  }

  @Test("count no more once they are refused: too slow, too large, or no HTTP", arguments: [0, 1, 2])
  func refused(_ reason: Int) throws {
    let connection = try EmbeddedConnection(table)
    try connection.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n\(Self.half)\r\n")
    #expect(byteCount == Self.halfBytes)
    let chunk = "4e20\r\n\(Self.half)\r\n"
    let response =
      switch reason {
      case 0: try connection.wait(.seconds(31))
      case 1: try connection.send(chunk + chunk + chunk)
      default: try connection.send("no chunk\r\n")
      }
    #expect(response.hasPrefix("HTTP/1.1 4"), "\(response)")
    #expect(byteCount == 0)
  }

  @Test("once they are few again after many, their memory is returned")
  func emptied() {
    let count = Mutex(0)
    let bodies = HeldBytes(.refusal(.body), limit: 1_600) { count.withLock { $0 += 1 } }
    let connection = ConnectionTable.Connection(EmbeddedChannel())
    for (held, emptied) in [(400, 0), (401, 1), (1_600, 2), (1, 2)] {
      bodies.set(held, of: connection)
      #expect(bodies.byteCount == held)
      bodies.set(0, of: connection)
      #expect(count.withLock { $0 } == emptied, "\(held)")
      #expect(bodies.byteCount == 0)
    }
    bodies.set(1_000, of: connection)
    bodies.set(150, of: connection)
    #expect(count.withLock { $0 } == 2, "150 are more than a sixteenth")
    bodies.set(0, of: connection)
    #expect(count.withLock { $0 } == 3)
  }

  @Test("are none of those that arrive with one read: these are served when the limit is reached, too")
  func complete() throws {
    let slow = try (0..<9).map { _ in try EmbeddedConnection(table) }
    for connection in slow { try connection.send(Self.head, Self.half) }
    let connection = try EmbeddedConnection(table)
    for _ in 0..<3 {
      #expect(try connection.send(Self.head + Self.half + Self.half).hasPrefix("HTTP/1.1 200 "))
    }
    withExtendedLifetime(slow) {}
  }

  @Test("of GET and HEAD are dropped: no route reads them", arguments: ["GET", "HEAD"])
  func dropped(_ method: String) throws {
    let connection = try EmbeddedConnection(table)
    let head = Self.head.replacing("POST", with: method)
    try connection.send(head, Self.half)
    #expect(byteCount == 0)
    #expect(try connection.send(Self.half).hasPrefix("HTTP/1.1 200 "))
    #expect(connection.bodies == [""])
    #expect(try connection.send(Self.head + Self.half + Self.half).hasPrefix("HTTP/1.1 200 "))
  }

  @Test("wait in one part behind another request, however many they come in")
  func queued() throws {
    let connection = try EmbeddedConnection(table)
    let chunks = String(repeating: "1\r\nx\r\n", count: 1_000)
    let first = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none"
    // The loop has not run: the response to the first is pending.
    try connection.channel.writeInbound(
      ByteBuffer(string: first + "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\(chunks)0\r\n\r\n"))
    #expect(connection.handler.queuedParts.count == 3)
    try connection.send()
    #expect(connection.bodies == ["one", String(repeating: "x", count: 1_000)])
  }
}
