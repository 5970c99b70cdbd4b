import NIOCore
import NIOEmbedded
import Testing

@testable import RegisPay

@Suite("Unread responses")
struct UnreadResponsesTests {
  private func connect(_ address: String) throws -> (EmbeddedChannel, ConnectionTable.Connection) {
    let channel = EmbeddedChannel()
    try channel.connect(to: SocketAddress(ipAddress: address, port: 1)).wait()
    return (channel, ConnectionTable.Connection(channel))
  }

  @Test("above the limit those are closed that are unread longest, of the address that holds most")
  func closes() throws {
    let unread = HeldBytes(.close, limit: 800)
    let (other, otherConnection) = try connect("192.0.2.2")
    unread.set(300, of: otherConnection)
    let many = try (0..<4).map { _ in try connect("192.0.2.1") }
    for (_, connection) in many { unread.set(100, of: connection) }
    #expect(unread.byteCount == 700)
    // Since when a connection is unread does not change with what it holds.
    unread.set(300, of: many[0].1)
    #expect(many.map(\.0.isActive) == [false, true, true, true])
    #expect(other.isActive)
    #expect(unread.byteCount == 600)
  }

  @Test("what was read, or closed, counts no more")
  func forgets() throws {
    let unread = HeldBytes(.close, limit: 800)
    let (channel, connection) = try connect("192.0.2.1")
    for byteCount in [500, 700, 0, 800] { unread.set(byteCount, of: connection) }
    #expect(unread.byteCount == 800 && channel.isActive)
    unread.set(801, of: connection)
    #expect(!channel.isActive)
    unread.set(0, of: connection)
    #expect(unread.byteCount == 0)
  }
}
