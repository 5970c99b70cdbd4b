import AsyncHTTPClient
import NIOCore
import Synchronization

/// An HTTP client that reaches one host at one address, and counts who uses it, so that it is shut down when nobody does.
final class PinnedClient: Sendable {
  let http: HTTPClient
  private let host: String
  private let address: IPAddress
  private let use = Mutex((count: 0, isRetired: false))

  init(host: String, address: IPAddress, callLimit: Int, timeLimit: Duration) {
    self.host = host
    self.address = address
    var configuration = HTTPClient.Configuration()
    configuration.dnsOverride = [host: address.description]
    configuration.redirectConfiguration = .disallow
    configuration.httpVersion = .http1Only
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = callLimit
    configuration.connectionPool.idleTimeout = .seconds(30)
    // The event has a schedule of its own for that.
    configuration.connectionPool.retryConnectionEstablishment = false
    // Leaves time for another address.
    configuration.timeout.connect = TimeAmount(timeLimit / 3)
    http = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
  }

  func serves(_ host: String, _ address: IPAddress) -> Bool { host == self.host && address == self.address }

  func begin() { use.withLock { $0.count += 1 } }

  func end() {
    let isOver = use.withLock { use in
      use.count -= 1
      return use.isRetired && use.count == 0
    }
    if isOver { Task { await shutDown() } }
  }

  /// It is not used any more, but for what is under way.
  func retire() async {
    let isOver = use.withLock { use in
      use.isRetired = true
      return use.count == 0
    }
    if isOver { await shutDown() }
  }

  private func shutDown() async {
    // Fails only when it was shut down before.
    try? await http.shutdown()
  }
}
