import NIOCore
import Synchronization

/// The open connections, so that there are never too many: a new one takes the place of those that have waited longest for
/// their client. Ten thousand idle connections thus cost their owner ten thousand reconnects, and nobody else anything.
final class ConnectionTable: Sendable {
  /// One connection. Its event loop says when it waits; the table may close it from another.
  final class Connection: Sendable {
    let channel: any Channel
    let address: ClientAddress?
    /// From this machine: it may be one of the server's own, which its first request tells.
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

  enum Admission {
    case admitted
    /// Its address has too many: to be closed unless its first request shows that it is the server's own.
    case onlyIfOwn
    /// To be closed: its address has too many, or every other connection is at work.
    case refused
  }

  /// Takes a connection in, and closes others if need be.
  func admit(_ connection: Connection) -> Admission {
    let (admission, closed) = state.withLock { state -> (Admission, [Connection]) in
      var isOver = false
      if let limitPerAddress, let address = connection.address {
        isOver = state.counts[address, default: 0] >= limitPerAddress
      }
      if isOver, !connection.isLocal { return (.refused, []) }
      var closed: [Connection] = []
      if state.connections.count >= limit {
        closed = longestWaiting(state)
        if closed.isEmpty { return (.refused, []) }
        for other in closed { remove(other, &state) }
      }
      state.connections[ObjectIdentifier(connection)] = connection
      if let address = connection.address { state.counts[address, default: 0] += 1 }
      return (isOver ? .onlyIfOwn : .admitted, closed)
    }
    for other in closed { other.channel.close(promise: nil) }
    return admission
  }

  /// Forgets a connection: it is closed, or it is one of our own. May be called again.
  func remove(_ connection: Connection) { state.withLock { remove(connection, &$0) } }

  private func remove(_ connection: Connection, _ state: inout State) {
    guard state.connections.removeValue(forKey: ObjectIdentifier(connection)) != nil, let address = connection.address
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
