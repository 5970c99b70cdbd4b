import DequeModule
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import Synchronization

/// Kept-alive HTTP/1.1 connections to one endpoint, from each event loop its own: a call is written, answered and
/// reported on the loop that it was begun on, without another thread. Each connection has one call at a time.
///
/// With the connections of a loop all in use, calls wait for one in the order in which they came. Safe to use from any
/// task.
final class ConnectionPool: Sendable {
  /// A call as it goes out.
  struct Call: Sendable {
    var head: HTTPRequestHead
    var body: ByteBuffer
    /// It may be made again when its connection breaks without an answer: it has an idempotency key.
    var isRepeatable = true
    /// The body of a 2xx as it comes, of any length, without a limit on its time; nil for one that is kept and limited.
    var sink: (@Sendable (ByteBuffer) -> Void)?
  }

  let endpoint: Endpoint
  private let pools: [LoopPool]

  /// - Parameters:
  ///   - address: what is connected to instead of looking the endpoint's name up.
  ///   - timeLimit: for a call as a whole, its waiting for a connection included.
  ///   - connectTimeLimit: for connecting; nil for the call's.
  ///   - idleTimeLimit: for a connection without a call. By default it is less than servers keep one, which would
  ///     otherwise close it while a call is on its way.
  ///   - answerLimit: bytes of an answer's body.
  ///   - cutsAnswers: a longer answer counts, without the rest and its connection; otherwise the call fails.
  ///   - connectionLimit: for each event loop.
  ///   - budget: of the sockets that the connections take; nil where they need none of one.
  ///   - validatesHeads: refuses to send heads with what HTTP does not allow, such as line breaks. Not needed for heads
  ///     that are made of what was checked before.
  init(
    _ endpoint: Endpoint, at address: SocketAddress? = nil, timeLimit: Duration, connectTimeLimit: Duration? = nil,
    idleTimeLimit: Duration = .seconds(30), answerLimit: Int, cutsAnswers: Bool = false, connectionLimit: Int = 512,
    budget: SocketBudget? = nil, validatesHeads: Bool = true,
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) throws(EndpointError) {
    self.endpoint = endpoint
    var tls: NIOSSLContext?
    if endpoint.isTLS {
      do {
        tls = try NIOSSLContext(configuration: .makeClientConfiguration())
      } catch {
        let reason = TLSFailure.reason(error, host: endpoint.host) ?? "\(error)"
        throw EndpointError(url: endpoint.authority, reason: "TLS can't be set up: \(reason)")
      }
    }
    let settings = LoopPool.Settings(
      endpoint: endpoint, address: address, tls: tls, timeLimit: TimeAmount(timeLimit),
      connectTimeLimit: TimeAmount(connectTimeLimit ?? timeLimit), idleTimeLimit: TimeAmount(idleTimeLimit),
      answerLimits: .init(bodyBytes: answerLimit, cutsBody: cutsAnswers),
      // Of few sockets the PSP and notifications have a share each, so that neither takes all.
      connectionLimit: budget.map { budget in
        budget.isTight ? min(connectionLimit, max(1, budget.limit / 2 / System.coreCount)) : connectionLimit
      } ?? connectionLimit,
      budget: budget,
      validatesHeads: validatesHeads)
    pools = group.makeIterator().map { LoopPool($0, settings) }
  }

  /// Makes a call. When the task is cancelled, or its ``CallStop`` stops it, it fails soon.
  func send(_ call: Call) async -> Result<HTTPAnswer, CallFailure> {
    let pool = pools.first { $0.loop.inEventLoop } ?? pools[Int.random(in: 0..<pools.count)]
    let ticket = Ticket()
    let end: @Sendable () -> Void = {
      ticket.isCancelled.store(true, ordering: .relaxed)
      pool.loop.execute { pool.cancel(ticket) }
    }
    CallStop.current?.whenStopped(end)
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        pool.onLoop { pool.begin(call, ticket) { continuation.resume(returning: $0) } }
      }
    } onCancel: {
      end()
    }
  }

  /// Closes what is idle, and every connection under way.
  func close() {
    for pool in pools { pool.loop.execute { pool.close() } }
  }
}

/// Names a call that is to be made.
private final class Ticket: Sendable {
  /// Also before the call has begun.
  let isCancelled = Atomic<Bool>(false)
}

/// The connections of one event loop.
// Safe to send: `idle`, `connectionCount`, `waiting`, `pending` and `timer` are touched on `loop` alone. ``begin``,
// ``cancel`` and ``close`` are the ways in from elsewhere, and trap on any other thread; all else is called by these, by
// the timer and by the connections, whose channels and handlers belong to this loop. The rest is `let` and Sendable.
private final class LoopPool: @unchecked Sendable {
  struct Settings: Sendable {
    let endpoint: Endpoint
    let address: SocketAddress?
    let tls: NIOSSLContext?
    let timeLimit: TimeAmount
    let connectTimeLimit: TimeAmount
    let idleTimeLimit: TimeAmount
    let answerLimits: AnswerReader.Limits
    let connectionLimit: Int
    let budget: SocketBudget?
    let validatesHeads: Bool
  }

  typealias Completion = @Sendable (Result<HTTPAnswer, CallFailure>) -> Void

  /// How often time limits are looked at. One timer for all: calls are many, and hardly any takes that long.
  private static let tick = TimeAmount.milliseconds(50)

  /// A call, from its beginning to its answer, whatever connections it needs for that.
  final class Pending {
    let call: ConnectionPool.Call
    let ticket: Ticket
    let deadline: NIODeadline
    private(set) var completion: Completion?
    /// The connection that it is on.
    var connection: Connection?
    /// Bytes of the call may have left this machine.
    var wasSent = false
    /// It has been on a kept-alive connection, which may have been closed before the call came.
    var hasBeenRepeated = false
    /// A no that came on a connection that had answered before; it is asked for again on a new one.
    var firstNo: Int?

    init(_ call: ConnectionPool.Call, _ ticket: Ticket, _ deadline: NIODeadline, _ completion: @escaping Completion) {
      self.call = call
      self.ticket = ticket
      self.deadline = deadline
      self.completion = completion
    }

    func complete(_ result: Result<HTTPAnswer, CallFailure>) {
      completion?(result)
      completion = nil
    }
  }

  let loop: any EventLoop
  let settings: Settings
  private var idle: [Connection] = []
  /// Open ones, and those being opened.
  private var connectionCount = 0
  /// Calls that no connection is free for, in order; some may have ended meanwhile.
  private var waiting: Deque<Pending> = []
  private var pending: [ObjectIdentifier: Pending] = [:]
  private var timer: RepeatedTask?
  private var isClosed = false

  init(_ loop: any EventLoop, _ settings: Settings) {
    self.loop = loop
    self.settings = settings
  }

  func onLoop(_ work: @escaping @Sendable () -> Void) {
    if loop.inEventLoop { work() } else { loop.execute(work) }
  }

  func begin(_ call: ConnectionPool.Call, _ ticket: Ticket, _ completion: @escaping Completion) {
    loop.preconditionInEventLoop()
    guard !ticket.isCancelled.load(ordering: .relaxed) else { return completion(.failure(.unreachable("given up"))) }
    guard !isClosed else { return completion(.failure(.unreachable("closed"))) }
    let deadline = call.sink == nil ? NIODeadline.now() + settings.timeLimit : .distantFuture
    let new = Pending(call, ticket, deadline, completion)
    pending[ObjectIdentifier(ticket)] = new
    if timer == nil {
      timer = loop.scheduleRepeatedTask(initialDelay: Self.tick, delay: Self.tick) { [weak self] _ in self?.look() }
    }
    start(new)
  }

  func cancel(_ ticket: Ticket) {
    loop.preconditionInEventLoop()
    guard let pending = pending[ObjectIdentifier(ticket)] else { return }
    fail(pending, "given up")
  }

  func close() {
    loop.preconditionInEventLoop()
    isClosed = true
    for connection in idle { connection.close() }
    for pending in pending.values { fail(pending, "given up") }
  }

  private func start(_ pending: Pending) {
    while let connection = idle.popLast() {
      guard connection.isUsable else { continue }
      pending.connection = connection
      return connection.send(pending)
    }
    guard connectionCount < settings.connectionLimit, settings.budget?.take() ?? true else {
      if connectionCount > 0 { return waiting.append(pending) }
      // None of its own ends, so that it could wait for that.
      return end(pending, .failure(.noSocket))
    }
    connect(for: pending)
  }

  /// A connection is free, or there is room for another.
  private func startWaiting() {
    while let next = waiting.popFirst() {
      if next.completion != nil { return start(next) }
    }
  }

  /// A socket was taken from the budget, if there is one.
  private func connect(for pending: Pending) {
    let settings = settings
    let bound = NIOLoopBound(pending, eventLoop: loop)
    let handshake = NIOLoopBound(settings.tls.map { _ in Handshake(host: settings.endpoint.host) }, eventLoop: loop)
    connectionCount += 1
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(settings.connectTimeLimit)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forMessages)
          let pipeline = channel.pipeline.syncOperations
          if let tls = settings.tls, let handshake = handshake.value {
            // An address has no name to ask for.
            let isAddress = (try? SocketAddress(ipAddress: settings.endpoint.host, port: 0)) != nil
            let name = isAddress ? nil : settings.endpoint.host
            try pipeline.addHandler(NIOSSLClientHandler(context: tls, serverHostname: name))
            try pipeline.addHandler(handshake)
          }
          let reader = AnswerReader(settings.answerLimits) { [host = settings.endpoint.host] error in
            TLSFailure.reason(error, host: host)
          }
          try reader.addHandlers(to: pipeline, validatesHeads: settings.validatesHeads)
        }
      }
    let connected =
      if let address = settings.address { bootstrap.connect(to: address) } else {
        bootstrap.connect(host: settings.endpoint.host, port: settings.endpoint.port)
      }
    let secured = connected.flatMap { channel in
      guard let handshake = handshake.value else { return channel.eventLoop.makeSucceededFuture(channel) }
      let done = handshake.done(on: channel, within: settings.connectTimeLimit)
      done.whenFailure { _ in channel.close(promise: nil) }
      return done.map { channel }
    }
    secured.assumeIsolated().whenComplete { result in
      let pending = bound.value
      switch result {
      case .failure(let error):
        self.connectionCount -= 1
        settings.budget?.give()
        self.fail(pending, Self.reason(error))
        self.startWaiting()
      case .success(let channel):
        guard channel.isActive, let reader = try? channel.pipeline.syncOperations.handler(type: AnswerReader.self)
        else {
          self.connectionCount -= 1
          settings.budget?.give()
          self.fail(pending, "closed at once")
          return self.startWaiting()
        }
        let connection = Connection(channel, reader, pool: self)
        // Too late for this one, in time for the next.
        guard pending.completion != nil else { return self.release(connection) }
        pending.connection = connection
        connection.send(pending)
      }
    }
  }

  /// From a connection whose call is answered. The connection says by itself when it is free.
  /// - Parameter wasReused: the connection had answered another call before this one.
  fileprivate func answered(_ pending: Pending, _ answer: HTTPAnswer, by connection: Connection, wasReused: Bool) {
    // An answer too many, sent as this call went out, would be taken for the call's own: a gateway's 400 as it ends an idle
    // connection, say. A no frees money, so it counts once a new connection has said the same.
    if wasReused, pending.call.isRepeatable, pending.firstNo == nil, StatusMeaning(answer.status).isFinalNo {
      pending.firstNo = answer.status
      pending.connection = nil
      connection.close()
      return connect(for: pending)
    }
    var answer = answer
    if let no = pending.firstNo, no != answer.status { answer.isOfRepeat = true }
    end(pending, .success(answer))
  }

  /// From a connection that broke under a call.
  ///
  /// - Parameter isUnanswered: nothing of an answer had come.
  fileprivate func broke(_ pending: Pending, _ reason: String, wasReused: Bool, isUnanswered: Bool) {
    // The other side closes idle connections when it likes, also just as a call comes.
    guard pending.call.isRepeatable, wasReused, isUnanswered, !pending.hasBeenRepeated, pending.completion != nil else {
      return fail(pending, reason)
    }
    pending.hasBeenRepeated = true
    pending.connection = nil
    connect(for: pending)
  }

  /// Whether the call can have reached the other side is told by whether it was sent.
  private func fail(_ pending: Pending, _ reason: String) {
    end(pending, .failure(pending.wasSent ? .broken(reason) : .unreachable(reason)))
  }

  private func end(_ pending: Pending, _ result: Result<HTTPAnswer, CallFailure>) {
    self.pending[ObjectIdentifier(pending.ticket)] = nil
    let connection = pending.connection
    pending.connection = nil
    pending.complete(result)
    // Of a call that has no answer the connection is no use any more.
    if case .failure = result { connection?.close() }
  }

  fileprivate func release(_ connection: Connection) {
    guard !isClosed else { return connection.close() }
    guard connection.isUsable else { return }
    connection.idleSince = .now()
    idle.append(connection)
    startWaiting()
  }

  fileprivate func closed() {
    connectionCount -= 1
    settings.budget?.give()
    startWaiting()
  }

  private func look() {
    let now = NIODeadline.now()
    for pending in pending.values where pending.deadline <= now {
      let limit = Duration(settings.timeLimit)
      guard pending.wasSent else {
        end(pending, .failure(.unreachable("no connection within \(limit)")))
        continue
      }
      end(pending, .failure(.noAnswer(within: limit)))
    }
    // The longest idle are at the front.
    while let first = idle.first, !first.isUsable || first.idleSince + settings.idleTimeLimit <= now {
      first.close()
      idle.removeFirst()
    }
    if pending.isEmpty, idle.isEmpty {
      timer?.cancel()
      timer = nil
    }
  }

  fileprivate static func reason(_ error: any Error) -> String {
    switch error {
    case let error as NIOConnectionError:
      error.connectionErrors.first.map { "\($0.error)" } ?? "\(error.host) has no address"
    default: "\(error)"
    }
  }
}

/// One connection and the call that is on it.
private final class Connection: AnswerReaderDelegate {
  private let channel: any Channel
  private let reader: AnswerReader
  private let pool: LoopPool
  private var pending: LoopPool.Pending?
  private var callCount = 0
  var idleSince = NIODeadline.now()

  init(_ channel: any Channel, _ reader: AnswerReader, pool: LoopPool) {
    self.channel = channel
    self.reader = reader
    self.pool = pool
    reader.delegate = self
  }

  var isUsable: Bool { channel.isActive && reader.isFree }

  func close() { channel.close(promise: nil) }

  func send(_ pending: LoopPool.Pending) {
    self.pending = pending
    pending.wasSent = true
    callCount += 1
    reader.expect(sink: pending.call.sink)
    channel.write(HTTPClientRequestPart.head(pending.call.head), promise: nil)
    channel.write(HTTPClientRequestPart.body(.byteBuffer(pending.call.body)), promise: nil)
    channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
  }

  func answered(_ head: HTTPResponseHead, _ body: [UInt8]) {
    guard let pending else { return }
    self.pending = nil
    let date = head.headers.values("Date").first.map(String.init)
    let retryAfter = head.headers.values("Retry-After").first.flatMap { RetryAfter.wait(String($0), date: date) }
    let answer = HTTPAnswer(
      status: Int(head.status.code), body: body, retryAfter: retryAfter,
      isOfRepeat: pending.hasBeenRepeated)
    pool.answered(pending, answer, by: self, wasReused: callCount > 1)
  }

  func failed(_ reason: String, isUnanswered: Bool) {
    guard let pending else { return }
    self.pending = nil
    pool.broke(pending, reason, wasReused: callCount > 1, isUnanswered: isUnanswered)
  }

  func becameFree() { pool.release(self) }
  func closed() { pool.closed() }
}

extension Duration {
  init(_ amount: TimeAmount) { self = .nanoseconds(amount.nanoseconds) }
}
