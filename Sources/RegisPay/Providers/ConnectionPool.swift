import NIOCore
import NIOPosix
import NIOSSL
import Synchronization

/// Kept-alive HTTP/1.1 connections to one endpoint. Each event loop has its own connections: a call is written, answered and
/// reported on the loop it began on, without a hop to another thread. A connection carries one call at a time.
///
/// When all connections of a loop are in use, calls wait for one in the order in which they came. Safe to use from any task.
final class ConnectionPool: Sendable {
  let endpoint: Endpoint
  private let loopPools: [LoopPool]

  /// - Parameters:
  ///   - address: what to connect to instead of resolving the endpoint's name.
  ///   - timeLimit: for a whole call, the wait for a connection included.
  ///   - connectTimeLimit: for connecting; nil for the call's.
  ///   - idleTimeLimit: for a connection without a call. The default is shorter than servers keep an idle connection: a server
  ///     would otherwise close it while a call is on its way.
  ///   - responseLimit: bytes of a response's body.
  ///   - truncatesResponses: a longer body is cut, the response counts, and its connection is closed; otherwise the call fails.
  ///   - connectionLimit: for each event loop.
  ///   - budget: the sockets that the connections count against; nil for no budget.
  ///   - trust: for an endpoint with TLS.
  ///   - validatesHeads: refuses to send heads that HTTP does not allow, such as those with line breaks. Not needed for heads
  ///     made of checked parts.
  init(
    _ endpoint: Endpoint, at address: SocketAddress? = nil, timeLimit: Duration, connectTimeLimit: Duration? = nil,
    idleTimeLimit: Duration = .seconds(30), responseLimit: Int, truncatesResponses: Bool = false,
    connectionLimit: Int = 512, budget: SocketBudget? = nil, validatesHeads: Bool = true,
    tls trust: ClientTLS = .init(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) throws(EndpointError) {
    self.endpoint = endpoint
    var tls: NIOSSLContext?
    if endpoint.isTLS {
      do {
        tls = try trust.context()
      } catch {
        throw EndpointError(url: endpoint.authority, reason: "\(error)", isOfFiles: true)
      }
    }
    let connector = Connector(
      endpoint: endpoint, address: address, tls: tls, timeLimit: TimeAmount(connectTimeLimit ?? timeLimit),
      responseLimits: .init(bodyBytes: responseLimit, truncatesBody: truncatesResponses),
      validatesHeads: validatesHeads)
    let settings = LoopPool.Settings(
      timeLimit: TimeAmount(timeLimit), idleTimeLimit: TimeAmount(idleTimeLimit),
      connectionLimit: connectionLimit, budget: budget, connect: connector.connect(on:))
    // A loop without a socket would fail its calls while other loops have idle connections.
    loopPools = group.makeIterator().prefix(max(1, budget?.limit ?? .max)).map { LoopPool($0, settings) }
  }

  /// Sends a call and waits for its response. Fails soon when the task is cancelled or the call's ``CallStop`` stops it.
  func send(_ call: ClientCall) async -> Result<ClientResponse, CallFailure> {
    let pool = loopPools.first { $0.loop.inEventLoop } ?? loopPools[Int.random(in: 0..<loopPools.count)]
    let ticket = CallTicket()
    let cancel: @Sendable () -> Void = {
      ticket.isCancelled.store(true, ordering: .relaxed)
      pool.loop.execute { pool.cancel(ticket) }
    }
    CallContext.current?.stop.whenStopped(cancel)
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        pool.onLoop { pool.begin(call, ticket) { continuation.resume(returning: $0) } }
      }
    } onCancel: {
      cancel()
    }
  }

  /// Closes idle connections and those in use: their calls fail.
  func close() {
    for pool in loopPools { pool.loop.execute { pool.close() } }
  }
}
