import NIOCore
import Synchronization

/// Bounds the memory of request heads, or of bodies, that have begun to arrive and are not complete, over all connections: each
/// connection alone may hold one for as long as its timeout, and thousands of them would fill the memory.
///
/// Above the limit it ends those that have been unfinished longest, of the address that holds most: a client that leaves requests
/// unfinished should not keep others from sending theirs.
///
/// Safe to use from any thread. A head or a body that arrives with one read costs nothing here and is never ended.
final class UnfinishedBytes: Sendable {
  typealias Connection = ConnectionTable.Connection

  /// Tells ``ConnectionGuard`` by an event in its channel's pipeline to refuse the request.
  enum Ended {
    case head, body
  }

  private struct Entry {
    let connection: Connection
    let since: NIODeadline
    var byteCount: Int
  }

  private struct State {
    var entries: [ObjectIdentifier: Entry] = [:]
    var byteCount = 0
    /// A quarter of the limit was held since `onEmptied` was last called.
    var wasLarge = false
  }

  let limit: Int
  private let event: Ended
  private let state = Mutex(State())
  private let onEmptied: @Sendable () -> Void

  /// - Parameters:
  ///   - event: sent to a connection whose request has to end.
  ///   - limit: bytes of all connections together.
  ///   - onEmptied: called when little is held after much was: the allocator then has much freed memory. Must not block.
  init(_ event: Ended, limit: Int, onEmptied: @escaping @Sendable () -> Void = {}) {
    self.event = event
    self.limit = limit
    self.onEmptied = onEmptied
  }

  /// Bytes that all connections hold.
  var byteCount: Int { state.withLock { $0.byteCount } }

  /// Notes what a connection holds. Above the limit, ends requests, perhaps this one's.
  ///
  /// - Parameter byteCount: 0 when the request is complete, refused, or gone.
  func set(_ byteCount: Int, of connection: Connection) {
    let (ended, isEmptied) = state.withLock { state -> ([Connection], Bool) in
      let id = ObjectIdentifier(connection)
      let before = state.entries[id]
      state.byteCount += byteCount - (before?.byteCount ?? 0)
      state.entries[id] =
        byteCount == 0 ? nil : Entry(connection: connection, since: before?.since ?? .now(), byteCount: byteCount)
      let ended = state.byteCount > limit ? removeSome(&state) : []
      if state.byteCount > limit / 4 { state.wasLarge = true }
      let isEmptied = state.wasLarge && state.byteCount <= limit / 16
      if isEmptied { state.wasLarge = false }
      return (ended, isEmptied)
    }
    for connection in ended { connection.channel.pipeline.fireUserInboundEventTriggered(event) }
    if isEmptied { onEmptied() }
  }

  /// An eighth of the limit at a time, so that the cost of sorting is shared by many requests.
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

extension Int {
  /// The smallest power of two that is not less, for numbers from 1 to 2^62: so ByteBuffer allocates memory.
  var nextPowerOfTwo: Int { 1 << (Int.bitWidth - (self - 1).leadingZeroBitCount) }
}
