import DequeModule
import NIOCore
import NIOPosix
import NIOSSL
import Synchronization

/// The connections of one event loop.
// Safe to send: `idle`, `connectionCount`, `waiting`, `pending`, `timer` and `isClosed` are touched on `loop` alone.
// ``begin``, ``cancel`` and ``close`` are the ways in from elsewhere and trap on any other thread. These, the timer and the
// connections, whose channels and handlers belong to this loop, call everything else. The rest is `let` and Sendable.
final class LoopPool: @unchecked Sendable {
  struct Settings: Sendable {
    let endpoint: Endpoint
    let address: SocketAddress?
    let tls: NIOSSLContext?
    let timeLimit: TimeAmount
    let connectTimeLimit: TimeAmount
    let idleTimeLimit: TimeAmount
    let responseLimits: ResponseReader.Limits
    let connectionLimit: Int
    let budget: SocketBudget?
    let validatesHeads: Bool
  }

  /// How often time limits are checked. One timer serves all calls: they are many, and hardly any reaches its limit.
  private static let tick = TimeAmount.milliseconds(50)
  /// The reason of a call that its caller cancelled.
  private static let cancelled = "cancelled"

  let loop: any EventLoop
  let settings: Settings
  /// Free connections, the longest idle first.
  private var idle: Deque<PooledConnection> = []
  /// Open connections and those being opened.
  private var connectionCount = 0
  /// Calls without a connection, in order; some may have ended meanwhile.
  private var waiting: Deque<PendingCall> = []
  private var pending: [ObjectIdentifier: PendingCall] = [:]
  private var timer: RepeatedTask?
  private var isClosed = false

  init(_ loop: any EventLoop, _ settings: Settings) {
    self.loop = loop
    self.settings = settings
  }

  func onLoop(_ work: @escaping @Sendable () -> Void) {
    if loop.inEventLoop { work() } else { loop.execute(work) }
  }

  // MARK: - Calls

  func begin(_ call: ConnectionPool.Call, _ ticket: CallTicket, _ completion: @escaping PendingCall.Completion) {
    loop.preconditionInEventLoop()
    guard !ticket.isCancelled.load(ordering: .relaxed) else {
      return completion(.failure(.unreachable(Self.cancelled)))
    }
    guard !isClosed else { return completion(.failure(.unreachable("closed"))) }
    let deadline = call.sink == nil ? NIODeadline.now() + settings.timeLimit : .distantFuture
    let new = PendingCall(call, ticket, deadline, completion)
    pending[ObjectIdentifier(ticket)] = new
    if timer == nil {
      timer = loop.scheduleRepeatedTask(initialDelay: Self.tick, delay: Self.tick) { [weak self] _ in
        self?.checkTimeLimits()
      }
    }
    start(new)
  }

  func cancel(_ ticket: CallTicket) {
    loop.preconditionInEventLoop()
    guard let pending = pending[ObjectIdentifier(ticket)] else { return }
    fail(pending, Self.cancelled)
  }

  func close() {
    loop.preconditionInEventLoop()
    isClosed = true
    for connection in idle { connection.close() }
    for pending in pending.values { fail(pending, Self.cancelled) }
  }

  private func start(_ pending: PendingCall) {
    // The connection that was used last is the least likely to be closed by now.
    while let connection = idle.popLast() {
      guard connection.isUsable else { continue }
      pending.connection = connection
      return connection.send(pending)
    }
    guard connectionCount < settings.connectionLimit, settings.budget?.take() ?? true else {
      if connectionCount > 0 { return waiting.append(pending) }
      // The pool has no connection of its own whose end the call could wait for.
      return end(pending, .failure(.noSocket))
    }
    connect(for: pending)
  }

  /// Starts the next waiting call: a connection is free, or there is room for another.
  private func startWaiting() {
    while let next = waiting.popFirst() {
      if next.completion != nil { return start(next) }
    }
  }

  /// Whether the call was sent decides whether it can have reached the other side.
  private func fail(_ pending: PendingCall, _ reason: String) {
    end(pending, .failure(pending.wasSent ? .broken(reason) : .unreachable(reason)))
  }

  private func end(_ pending: PendingCall, _ result: Result<ClientResponse, CallFailure>) {
    self.pending[ObjectIdentifier(pending.ticket)] = nil
    let connection = pending.connection
    pending.connection = nil
    pending.complete(result)
    // A response may still come on the connection of a failed call: no other call can use it.
    if case .failure = result { connection?.close() }
  }

  private func checkTimeLimits() {
    let now = NIODeadline.now()
    for pending in pending.values where pending.deadline <= now {
      let limit = Duration(settings.timeLimit)
      guard pending.wasSent else {
        end(pending, .failure(.unreachable("no connection within \(limit)")))
        continue
      }
      end(pending, .failure(.timeout(after: limit)))
    }
    while let first = idle.first, !first.isUsable || first.idleSince + settings.idleTimeLimit <= now {
      first.close()
      idle.removeFirst()
    }
    if pending.isEmpty, idle.isEmpty {
      timer?.cancel()
      timer = nil
    }
  }

  // MARK: - Connecting

  /// Opens a connection for a call. The caller has taken a socket from the budget, if there is one.
  private func connect(for pending: PendingCall) {
    let bound = NIOLoopBound(pending, eventLoop: loop)
    connectionCount += 1
    secureChannel().assumeIsolated().whenComplete { result in
      let pending = bound.value
      switch result {
      case .failure(let error): self.connectFailed(pending, Self.reason(error))
      case .success(let channel):
        guard channel.isActive, let reader = try? channel.pipeline.syncOperations.handler(type: ResponseReader.self)
        else { return self.connectFailed(pending, "closed at once") }
        let connection = PooledConnection(channel, reader, pool: self)
        // Too late for this call, in time for the next.
        guard pending.completion != nil else { return self.release(connection) }
        pending.connection = connection
        connection.send(pending)
      }
    }
  }

  private func connectFailed(_ pending: PendingCall, _ reason: String) {
    connectionCount -= 1
    settings.budget?.give()
    fail(pending, reason)
    startWaiting()
  }

  /// Connects, and completes the TLS handshake where the endpoint has one.
  private func secureChannel() -> EventLoopFuture<any Channel> {
    let settings = settings
    let handshake = NIOLoopBound(settings.tls.map { _ in Handshake(host: settings.endpoint.host) }, eventLoop: loop)
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(settings.connectTimeLimit)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forMessages)
          let pipeline = channel.pipeline.syncOperations
          if let tls = settings.tls, let handshake = handshake.value {
            // An IP address has no server name to send.
            let isAddress = (try? SocketAddress(ipAddress: settings.endpoint.host, port: 0)) != nil
            let name = isAddress ? nil : settings.endpoint.host
            try pipeline.addHandler(NIOSSLClientHandler(context: tls, serverHostname: name))
            try pipeline.addHandler(handshake)
          }
          let reader = ResponseReader(settings.responseLimits) { [host = settings.endpoint.host] error in
            TLSFailure.reason(error, host: host)
          }
          try reader.addHandlers(to: pipeline, validatesHeads: settings.validatesHeads)
        }
      }
    let connected =
      if let address = settings.address { bootstrap.connect(to: address) } else {
        bootstrap.connect(host: settings.endpoint.host, port: settings.endpoint.port)
      }
    return connected.flatMap { channel in
      guard let handshake = handshake.value else { return channel.eventLoop.makeSucceededFuture(channel) }
      let done = handshake.done(on: channel, within: settings.connectTimeLimit)
      done.whenFailure { _ in channel.close(promise: nil) }
      return done.map { channel }
    }
  }

  private static func reason(_ error: any Error) -> String {
    switch error {
    case let error as NIOConnectionError:
      error.connectionErrors.first.map { "\($0.error)" } ?? "\(error.host) has no address"
    default: "\(error)"
    }
  }

  // MARK: - What connections report

  /// A call's response is complete. The connection reports by itself when it is free.
  ///
  /// - Parameter wasReused: the connection had carried another call before this one.
  func received(_ response: ClientResponse, to pending: PendingCall, on connection: PooledConnection, wasReused: Bool) {
    // A response that was sent unasked as this call went out would be taken for the call's own: a gateway's 400 as it ends an
    // idle connection, say. A refusal frees money, so it counts once a new connection has confirmed it.
    if wasReused, pending.call.isRepeatable, pending.firstRefusal == nil, StatusMeaning(response.status).isFinalRefusal
    {
      pending.firstRefusal = response.status
      pending.connection = nil
      connection.close()
      return connect(for: pending)
    }
    var response = response
    if let first = pending.firstRefusal, first != response.status { response.isToRepeat = true }
    end(pending, .success(response))
  }

  /// A connection broke under a call.
  ///
  /// - Parameter receivedNothing: no byte of a response had come.
  func broke(_ pending: PendingCall, _ reason: String, wasReused: Bool, receivedNothing: Bool) {
    // The other side closes idle connections when it likes, also just as a call arrives.
    guard pending.call.isRepeatable, wasReused, receivedNothing, !pending.hasBeenRepeated, pending.completion != nil
    else { return fail(pending, reason) }
    pending.hasBeenRepeated = true
    pending.connection = nil
    connect(for: pending)
  }

  func release(_ connection: PooledConnection) {
    guard !isClosed else { return connection.close() }
    guard connection.isUsable else { return }
    connection.idleSince = .now()
    idle.append(connection)
    startWaiting()
  }

  func closed() {
    connectionCount -= 1
    settings.budget?.give()
    startWaiting()
  }
}
