import NIOCore
import Synchronization

/// The open connections. It bounds their number: a new connection replaces those that have waited longest for their client. So
/// ten thousand idle connections cost their owner ten thousand reconnects, and other clients nothing.
///
/// Safe to use from any thread.
final class ConnectionTable: Sendable {
  /// One connection. Its event loop reports when the server waits for the client; the table may close it from another loop.
  final class Connection: Sendable {
    let channel: any Channel
    let address: ClientAddress?
    /// From this machine. Its first request shows whether it is one of the server's own.
    let isLocal: Bool
    /// When the server began to wait for the client, as uptime in nanoseconds; 0 while the client waits for the server. Bytes
    /// that are not a complete request don't end the wait.
    let waitingSince: Atomic<UInt64>

    /// - Parameter proxies: carry the connections of many clients, and count for no address.
    init(_ channel: any Channel, proxies: TrustedProxies = .init()) {
      self.channel = channel
      address = proxies.contains(channel.remoteAddress) ? nil : channel.remoteAddress.map(ClientAddress.init)
      isLocal =
        channel.remoteAddress?.ipAddress != nil && channel.remoteAddress?.ipAddress == channel.localAddress?.ipAddress
      waitingSince = Atomic(NIODeadline.now().uptimeNanoseconds)
    }

    func startsWaiting() { waitingSince.store(NIODeadline.now().uptimeNanoseconds, ordering: .relaxed) }
    func stopsWaiting() { waitingSince.store(0, ordering: .relaxed) }
  }

  private struct State {
    var connections: [ObjectIdentifier: Connection] = [:]
    /// The connections that `countByAddress` includes.
    var counted: Set<ObjectIdentifier> = []
    var countByAddress: [ClientAddress: Int] = [:]
  }

  /// Connections, at most.
  let limit: Int
  private let limitPerAddress: Int?
  let proxies: TrustedProxies
  private let state = Mutex(State())

  /// What the connections hold for clients that don't read.
  let unread: HeldBytes
  /// What the connections hold for clients that have not sent all. Heads have a budget of their own: a client without a key can
  /// send one, and must not keep those with a key from sending bodies.
  let unfinishedHeads: HeldBytes
  let unfinishedBodies: HeldBytes

  init(
    limit: Int, limitPerAddress: Int?, proxies: TrustedProxies = .init(), unreadBytes: Int = HTTPLimits().unreadBytes,
    unfinishedHeads: HeldBytes = HeldBytes(.refusal(.head), limit: HTTPLimits().unfinishedHeadBytes),
    unfinishedBodies: HeldBytes = HeldBytes(.refusal(.body), limit: HTTPLimits().unfinishedBodyBytes)
  ) {
    unread = HeldBytes(.close, limit: unreadBytes)
    self.unfinishedHeads = unfinishedHeads
    self.unfinishedBodies = unfinishedBodies
    self.limit = limit
    self.limitPerAddress = limitPerAddress
    self.proxies = proxies
  }

  var count: Int { state.withLock { $0.connections.count } }

  /// Adds a connection, and closes others if there are too many. A local connection counts for its address only after
  /// ``count(_:)``.
  ///
  /// - Returns: false when the caller must close it: its address has too many, or no other connection waits for its client.
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
    for other in closed { other.channel.cutOff() }
    return isAdmitted
  }

  /// Counts a local connection for its address, because it is not one of the server's own.
  ///
  /// - Returns: false when the caller must close it: its address has too many.
  func count(_ connection: Connection) -> Bool {
    state.withLock { state in
      guard hasRoom(connection.address, state) else { return false }
      // A connection that was closed meanwhile would be counted for ever.
      if state.connections[ObjectIdentifier(connection)] != nil { count(connection, &state) }
      return true
    }
  }

  private func hasRoom(_ address: ClientAddress?, _ state: State) -> Bool {
    guard let limitPerAddress, let address else { return true }
    return state.countByAddress[address, default: 0] < limitPerAddress
  }

  private func count(_ connection: Connection, _ state: inout State) {
    guard let address = connection.address, state.counted.insert(ObjectIdentifier(connection)).inserted else { return }
    state.countByAddress[address, default: 0] += 1
  }

  /// Removes a connection that is closed or is one of the server's own. May be called more than once.
  func remove(_ connection: Connection) { state.withLock { remove(connection, &$0) } }

  private func remove(_ connection: Connection, _ state: inout State) {
    let id = ObjectIdentifier(connection)
    guard state.connections.removeValue(forKey: id) != nil, state.counted.remove(id) != nil,
      let address = connection.address
    else { return }
    let count = state.countByAddress[address, default: 0] - 1
    state.countByAddress[address] = count > 0 ? count : nil
  }

  /// One connection in a hundred at a time, so that the cost of sorting all of them is shared by many new connections.
  private func longestWaiting(_ state: State) -> [Connection] {
    let waiting = state.connections.values
      .map { (since: $0.waitingSince.load(ordering: .relaxed), connection: $0) }
      .filter { $0.since > 0 }
      .sorted { $0.since < $1.since }
    return waiting.prefix(max(1, limit / 100)).map(\.connection)
  }
}
