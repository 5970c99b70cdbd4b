import NIOCore
import Synchronization

/// The open connections, so that there are never too many: a new one takes the place of those that have waited longest for
/// their client. Ten thousand idle connections thus cost their owner ten thousand reconnects, and nobody else anything.
final class ConnectionTable: Sendable {
  /// One connection. Its event loop says when it waits; the table may close it from another.
  final class Connection: Sendable {
    let channel: any Channel
    let address: ClientAddress?
    /// From this machine: whether it is one of the server's own is known with its first request.
    let isLocal: Bool
    /// Since when the server has been waiting for the client, as uptime in nanoseconds; 0 while the client waits for the
    /// server. Bytes that are not a whole request don't end the waiting.
    let waitingSince: Atomic<UInt64>

    init(_ channel: any Channel) {
      self.channel = channel
      address = channel.remoteAddress.map(ClientAddress.init)
      isLocal =
        channel.remoteAddress?.ipAddress != nil && channel.remoteAddress?.ipAddress == channel.localAddress?.ipAddress
      waitingSince = Atomic(NIODeadline.now().uptimeNanoseconds)
    }

    func waits() { waitingSince.store(NIODeadline.now().uptimeNanoseconds, ordering: .relaxed) }
    func works() { waitingSince.store(0, ordering: .relaxed) }
  }

  private struct State {
    var connections: [ObjectIdentifier: Connection] = [:]
    /// Of ``counts``.
    var counted: Set<ObjectIdentifier> = []
    var counts: [ClientAddress: Int] = [:]
  }

  private let limit: Int
  private let limitPerAddress: Int?
  private let state = Mutex(State())

  init(limit: Int, limitPerAddress: Int?) {
    self.limit = limit
    self.limitPerAddress = limitPerAddress
  }

  var count: Int { state.withLock { $0.connections.count } }

  /// Takes a connection in, and closes others if need be. One that is local counts for its address only from ``count(_:)``.
  ///
  /// - Returns: false when it has to be closed: its address has too many, or every other connection is at work.
  func admit(_ connection: Connection) -> Bool {
    let (isAdmitted, closed) = state.withLock { state -> (Bool, [Connection]) in
      guard connection.isLocal || hasRoom(connection.address, state) else { return (false, []) }
      var closed: [Connection] = []
      if state.connections.count >= limit {
        closed = longestWaiting(state)
        if closed.isEmpty { return (false, []) }
        for other in closed { remove(other, &state) }
      }
      state.connections[ObjectIdentifier(connection)] = connection
      if !connection.isLocal { count(connection, &state) }
      return (true, closed)
    }
    for other in closed { other.channel.close(promise: nil) }
    return isAdmitted
  }

  /// Counts a local connection for its address, as it is not one of the server's own.
  ///
  /// - Returns: false when it has to be closed: its address has too many.
  func count(_ connection: Connection) -> Bool {
    state.withLock { state in
      guard hasRoom(connection.address, state) else { return false }
      // Closed meanwhile, it is not counted for ever.
      if state.connections[ObjectIdentifier(connection)] != nil { count(connection, &state) }
      return true
    }
  }

  private func hasRoom(_ address: ClientAddress?, _ state: State) -> Bool {
    guard let limitPerAddress, let address else { return true }
    return state.counts[address, default: 0] < limitPerAddress
  }

  private func count(_ connection: Connection, _ state: inout State) {
    guard let address = connection.address, state.counted.insert(ObjectIdentifier(connection)).inserted else { return }
    state.counts[address, default: 0] += 1
  }

  /// Forgets a connection: it is closed, or it is one of our own. May be called again.
  func remove(_ connection: Connection) { state.withLock { remove(connection, &$0) } }

  private func remove(_ connection: Connection, _ state: inout State) {
    let id = ObjectIdentifier(connection)
    guard state.connections.removeValue(forKey: id) != nil, state.counted.remove(id) != nil,
      let address = connection.address
    else { return }
    let count = state.counts[address, default: 0] - 1
    state.counts[address] = count > 0 ? count : nil
  }

  /// One in a hundred at a time, so that looking through all of them is paid for by many new connections.
  private func longestWaiting(_ state: State) -> [Connection] {
    let waiting = state.connections.values
      .map { (since: $0.waitingSince.load(ordering: .relaxed), connection: $0) }
      .filter { $0.since > 0 }
      .sorted { $0.since < $1.since }
    return waiting.prefix(max(1, limit / 100)).map(\.connection)
  }
}
