import NIOCore
import Synchronization

/// Bounds the memory of one kind that clients make the connections hold, over all connections: responses that they don't read, and
/// heads or bodies of requests that they have not sent completely. Each connection alone may hold one for as long as its timeout, and
/// thousands of them would fill the memory.
///
/// Above the limit it ends what has been held longest, for the address that holds most: one client should not cost others their
/// requests or responses.
///
/// Safe to use from any thread. What the socket takes or brings at once costs nothing here.
final class HeldBytes: Sendable {
  typealias Connection = ConnectionTable.Connection

  /// What happens to a connection above the limit.
  enum Ending: Sendable {
    /// Its client reads nothing, so nothing can be said to it.
    case close
    /// ``ConnectionGuard`` gets the event in its channel's pipeline, and refuses the request.
    case refusal(Refused)
  }

  enum Refused: Sendable {
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

  private let limit: Int
  private let ending: Ending
  private let state = Mutex(State())
  private let onEmptied: @Sendable () -> Void

  /// - Parameters:
  ///   - ending: what happens to a connection above the limit.
  ///   - limit: bytes of all connections together.
  ///   - onEmptied: called when little is held after much was: the allocator then has much freed memory. Must not block.
  init(_ ending: Ending, limit: Int, onEmptied: @escaping @Sendable () -> Void = {}) {
    self.ending = ending
    self.limit = limit
    self.onEmptied = onEmptied
  }

  /// Bytes that all connections hold.
  var byteCount: Int { state.withLock { $0.byteCount } }

  /// Notes what a connection holds. Above the limit, ends some, perhaps this one.
  ///
  /// - Parameter byteCount: 0 when it holds nothing any more.
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
    for connection in ended {
      switch ending {
      case .close: connection.channel.cutOff()
      case .refusal(let event): connection.channel.pipeline.fireUserInboundEventTriggered(event)
      }
    }
    if isEmptied { onEmptied() }
  }

  /// An eighth of the limit at a time, so that the cost of sorting is shared by many.
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
