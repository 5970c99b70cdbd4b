import NIOCore
import NIOPosix
import Synchronization

/// An HTTP client for one host at one address. It counts its users and closes when it is retired and has none.
final class PinnedClient: Sendable {
  let pool: ConnectionPool
  private let url: WebhookURL
  private let address: IPAddress
  private let use = Mutex((count: 0, isRetired: false))

  /// Bytes of a response that are read and ignored, so that the connection can be used again.
  private static let responseLimit = 16 << 10

  /// - Throws: when TLS can't be set up, or the address can't be connected to.
  init(_ url: WebhookURL, address: IPAddress, callLimit: Int, timeLimit: Duration, sockets: SocketBudget) throws {
    self.url = url
    self.address = address
    pool = try ConnectionPool(
      Endpoint(isTLS: url.isSecure, host: url.host, port: url.port),
      at: try SocketAddress(ipAddress: address.description, port: url.port), timeLimit: timeLimit,
      // Leaves time for another address.
      connectTimeLimit: timeLimit / 3, responseLimit: Self.responseLimit, truncatesResponses: true,
      // One endpoint that hangs leaves sockets to the others.
      connectionLimit: min(callLimit, max(1, sockets.limit / 4)), budget: sockets,
      // On one loop: an endpoint has few connections, and each call should find one that is open.
      group: MultiThreadedEventLoopGroup.singleton.next())
  }

  func serves(_ url: WebhookURL, _ address: IPAddress) -> Bool {
    (url.isSecure, url.host, url.port) == (self.url.isSecure, self.url.host, self.url.port) && address == self.address
  }

  func begin() { use.withLock { $0.count += 1 } }

  func end() {
    let isOver = use.withLock { use in
      use.count -= 1
      return use.isRetired && use.count == 0
    }
    if isOver { pool.close() }
  }

  /// Ends new uses. The client closes with its last user.
  func retire() {
    let isOver = use.withLock { use in
      use.isRetired = true
      return use.count == 0
    }
    if isOver { pool.close() }
  }
}
