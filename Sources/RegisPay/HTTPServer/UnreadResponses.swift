import NIOCore
import Synchronization

/// The responses that wait in memory for their clients, over all connections. It bounds their bytes: each connection alone may
/// hold one response for as long as the write timeout, and thousands of them would fill the memory.
///
/// Safe to use from any thread. A response that the socket takes at once costs nothing here.
final class UnreadResponses: Sendable {
  typealias Connection = ConnectionTable.Connection

  private struct Entry {
    let connection: Connection
    let since: NIODeadline
    var byteCount: Int
  }

  private struct State {
    var entries: [ObjectIdentifier: Entry] = [:]
    var byteCount = 0
  }

  private let limit: Int
  private let state = Mutex(State())

  init(limit: Int) { self.limit = limit }

  var byteCount: Int { state.withLock { $0.byteCount } }

  /// Notes what a connection holds. Above the limit, closes connections, perhaps this one.
  ///
  /// - Parameter byteCount: 0 when its client has read all.
  func set(_ byteCount: Int, of connection: Connection) {
    let closed = state.withLock { state -> [Connection] in
      let id = ObjectIdentifier(connection)
      let before = state.entries[id]
      state.byteCount += byteCount - (before?.byteCount ?? 0)
      state.entries[id] =
        byteCount == 0 ? nil : Entry(connection: connection, since: before?.since ?? .now(), byteCount: byteCount)
      return state.byteCount > limit ? removeSome(&state) : []
    }
    for connection in closed { connection.channel.close(promise: nil) }
  }

  /// Of the address that holds most, those that have been unread longest: a client that reads nothing should not cost another
  /// one its response. An eighth of the limit at a time, so that the cost of sorting is shared by many responses.
  private func removeSome(_ state: inout State) -> [Connection] {
    var removed: [Connection] = []
    let target = limit - limit / 8
    while state.byteCount > target {
      let byAddress = Dictionary(grouping: state.entries.values) { $0.connection.address }
      guard let most = byAddress.values.max(by: { bytes(of: $0) < bytes(of: $1) }) else { break }
      for entry in most.sorted(by: { $0.since < $1.since }) where state.byteCount > target {
        state.byteCount -= entry.byteCount
        state.entries[ObjectIdentifier(entry.connection)] = nil
        removed.append(entry.connection)
      }
    }
    return removed
  }

  private func bytes(of entries: [Entry]) -> Int { entries.reduce(0) { $0 + $1.byteCount } }
}
