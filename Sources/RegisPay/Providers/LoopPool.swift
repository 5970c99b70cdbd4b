import DequeModule
import NIOCore
import Synchronization

/// The connections of one event loop.
// Safe to send: `idle`, `connectionCount`, `waiting`, `pending`, `timer` and `isClosed` are touched on `loop` alone.
// ``begin``, ``cancel`` and ``close`` are the ways in from elsewhere and trap on any other thread. These, the timer and the
// connections, whose channels and handlers belong to this loop, call everything else. The rest is `let` and Sendable.
final class LoopPool: @unchecked Sendable {
  struct Settings: Sendable {
    let timeLimit: TimeAmount
    let idleTimeLimit: TimeAmount
    let connectionLimit: Int
    let budget: SocketBudget?
    /// Makes a connection on the given loop whose pipeline ends with a ``ResponseReader``, in a bounded time.
    let connect: @Sendable (any EventLoop) -> EventLoopFuture<any Channel>
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

  func begin(_ call: ClientCall, _ ticket: CallTicket, _ completion: @escaping PendingCall.Completion) {
    loop.preconditionInEventLoop()
    guard !ticket.isCancelled.load(ordering: .relaxed) else {
      return completion(.failure(.unreachable(Self.cancelled)))
    }
    guard !isClosed else { return completion(.failure(.unreachable("closed"))) }
    let deadline = call.sink == nil ? loop.now + settings.timeLimit : .distantFuture
    let new = PendingCall(call, ticket, deadline, completion)
    pending[ObjectIdentifier(ticket)] = new
    startTimer()
    start(new)
  }

  private func startTimer() {
    guard timer == nil else { return }
    timer = loop.scheduleRepeatedTask(initialDelay: Self.tick, delay: Self.tick) { [weak self] _ in
      self?.checkTimeLimits()
    }
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
    connectionCount += 1
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
    let now = loop.now
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

  /// Opens a connection for a call, which takes the room of a connection that the caller closes or that broke. The room is one of the
  /// pool's connections, and a socket of the budget.
  private func connect(for pending: PendingCall, insteadOf old: PooledConnection) {
    old.hasRoom = false
    connect(for: pending)
  }

  /// Opens a connection for a call. The caller has made room for it.
  private func connect(for pending: PendingCall) {
    let bound = NIOLoopBound(pending, eventLoop: loop)
    settings.connect(loop).assumeIsolated().whenComplete { result in
      let pending = bound.value
      switch result {
      case .failure(let error): self.connectFailed(pending, "\(error)")
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

  // MARK: - What connections report

  /// A call's response is complete. The connection reports by itself when it is free.
  ///
  /// - Parameter wasReused: the connection had carried another call before this one.
  func received(_ response: ClientResponse, to pending: PendingCall, on connection: PooledConnection, wasReused: Bool) {
    var response = response
    let meaning = StatusMeaning(response.status)
    // A response that was sent unasked as this call went out would be taken for the call's own: a gateway's 400 as it ends an
    // idle connection, say. A denial frees money, so it counts once a new connection has confirmed it.
    if wasReused, pending.call.isRepeatable, pending.firstDenial == nil, meaning.deniesEffect {
      guard meaning == .busy else {
        pending.firstDenial = response.status
        pending.connection = nil
        connect(for: pending, insteadOf: connection)
        return connection.close()
      }
      // Another call would be one too many for the other side.
      response.isUnconfirmed = true
    }
    if let first = pending.firstDenial, first != response.status { response.isToRepeat = true }
    end(pending, .success(response))
  }

  /// A connection broke under a call.
  ///
  /// - Parameter receivedNothing: no byte of a response had come.
  func broke(
    _ pending: PendingCall, _ reason: String, on connection: PooledConnection, wasReused: Bool, receivedNothing: Bool
  ) {
    // The other side closes idle connections when it likes, also just as a call arrives.
    guard pending.call.isRepeatable, wasReused, receivedNothing, !pending.hasBeenRepeated, pending.completion != nil
    else { return fail(pending, reason) }
    pending.hasBeenRepeated = true
    pending.connection = nil
    connect(for: pending, insteadOf: connection)
  }

  func release(_ connection: PooledConnection) {
    guard !isClosed else { return connection.close() }
    guard connection.isUsable else { return }
    connection.idleSince = loop.now
    idle.append(connection)
    // It may have come when its call had ended, and with that the timer.
    startTimer()
    startWaiting()
  }

  func closed(_ connection: PooledConnection) {
    guard connection.hasRoom else { return }
    connectionCount -= 1
    settings.budget?.give()
    startWaiting()
  }
}
