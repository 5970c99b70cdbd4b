import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOHTTPTypes

/// Holds one connection to the limits: its time for heads, bodies and unread answers, the size of what it sends, and the
/// number of its requests. Stands between the HTTP decoder and the server, on the connection's event loop; an ordinary
/// request, which comes in one piece, costs it neither a timer nor an allocation.
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPRequestPart
  typealias InboundOut = HTTPRequestPart
  typealias OutboundIn = HTTPResponsePart
  typealias OutboundOut = HTTPResponsePart

  private enum Reading {
    case nothing, head, body
  }

  private enum Phase {
    case serving
    /// What came is answered; nothing more is read.
    case ending
    /// The last answer is written; what the client still sends is thrown away for a moment, since a connection that is
    /// closed with unread bytes takes the answer with it.
    case ended
  }

  /// How long a client that is answered for the last time may go on sending before the connection is cut.
  private static let lingerTime = TimeAmount.seconds(2)
  /// Between two reads, of 256 KiB at most, of what a client sends behind its last request: some 25 MiB a second.
  private static let restPause = TimeAmount.milliseconds(10)

  private let limits: HTTPLimits
  private let table: ConnectionTable
  private let own: InternalToken
  private var connection: ConnectionTable.Connection?
  private var phase = Phase.serving
  private var reading = Reading.nothing
  /// Whether anything whole was decoded since the last `channelReadComplete`.
  private var sawPart = false
  /// Requests whose head was passed on and whose answer is not complete.
  private var unanswered = 0
  private var isAnswerBegun = false
  /// The answer has no length: each part has to be taken in time, since hardly any fills the buffers.
  private var isAnswerEndless = false
  /// Parts of an endless answer that are not on their way yet.
  private var unwritten = 0
  /// The request whose body is due waits to be told to send it.
  private var owesContinue = false
  private var bodyBytes = 0
  private var isFirstRequest = true
  /// The connection ends with the answer to the request that came last.
  private var endsConnection = false
  /// That request has come whole.
  private var hasLastRequest = false
  private var inputDeadline: NIODeadline?
  private var outputDeadline: NIODeadline?
  private var isReadDue = false
  private var timer: (task: Scheduled<Void>, time: NIODeadline)?

  init(limits: HTTPLimits, table: ConnectionTable, own: InternalToken) {
    self.limits = limits
    self.table = table
    self.own = own
  }

  /// Adds the HTTP/1 server's handlers with this one as the last.
  func addHandlers(to pipeline: ChannelPipeline.SynchronousOperations) throws {
    var decoderLimits = NIOHTTPDecoderLimitConfiguration()
    decoderLimits.maxHeaderFieldSize = limits.headBytes
    decoderLimits.maxHeaderListSize = limits.headBytes
    decoderLimits.maxHeaderFieldCount = limits.headFields
    try pipeline.addHandler(RestDropper(self))
    try pipeline.configureHTTPServerPipeline(
      withPipeliningAssistance: false,
      // The guard answers with problems, and the handler has one request after the other.
      withErrorHandling: false,
      // The types that responses are made of allow no line breaks.
      withOutboundHeaderValidation: false, withEncoderConfiguration: .init(),
      withDecoderLimitConfiguration: decoderLimits)
    try pipeline.addHandler(RequestCodec())
    try pipeline.addHandler(self)
  }

  // MARK: - Beginning and end

  func handlerAdded(context: ChannelHandlerContext) {
    if context.channel.isActive { begin(context) }
  }

  func channelActive(context: ChannelHandlerContext) {
    begin(context)
    context.fireChannelActive()
  }

  private func begin(_ context: ChannelHandlerContext) {
    guard connection == nil else { return }
    let connection = ConnectionTable.Connection(context.channel)
    self.connection = connection
    if !table.admit(connection) { drop(context) }
  }

  private func drop(_ context: ChannelHandlerContext) {
    phase = .ended
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) {
    end()
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) { end() }

  private func end() {
    if let connection { table.remove(connection) }
    timer?.task.cancel()
    timer = nil
    inputDeadline = nil
    outputDeadline = nil
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if phase == .ended, case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
    context.fireUserInboundEventTriggered(event)
  }

  // MARK: - What the client sends

  /// No request follows: what still comes is thrown away.
  fileprivate var isDone: Bool { phase != .serving || hasLastRequest }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard phase == .serving else { return }
    sawPart = true
    switch unwrapInboundIn(data) {
    case .head(let head):
      if isFirstRequest {
        isFirstRequest = false
        // An attacker who fills the table must not stop payments that are on their way.
        if let connection {
          if let field = head.headerFields[.authorization], own.matches(field) {
            table.remove(connection)
          } else if connection.isLocal, !table.count(connection) {
            return drop(context)
          }
        }
      }
      guard unanswered < limits.pipelinedRequests else { return stopReading(context) }
      if let path = head.path, path.utf8.count > limits.uriBytes {
        return refuse(.uriTooLong(limit: limits.uriBytes), context)
      }
      if let length = head.headerFields[.contentLength].flatMap(Int.init), length > limits.bodyBytes {
        return refuse(.bodyTooLarge(limit: limits.bodyBytes), context)
      }
      // Only now: what is refused at its head has no body that is read, and is none of those that have an answer to come.
      reading = .body
      inputDeadline = nil
      bodyBytes = 0
      unanswered += 1
      endsConnection = head.headerFields[.connection] == "close"
      owesContinue = head.headerFields[.expect] != nil
      // Passed on first: the answer may be made, and make this needless, at once.
      context.fireChannelRead(data)
      return sendContinue(context)
    case .body(let buffer):
      owesContinue = false
      bodyBytes += buffer.readableBytes
      guard bodyBytes <= limits.bodyBytes else {
        return refuse(.bodyTooLarge(limit: limits.bodyBytes), context)
      }
    case .end:
      owesContinue = false
      reading = .nothing
      hasLastRequest = endsConnection
      inputDeadline = nil
      connection?.works()
    }
    context.fireChannelRead(data)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    switch phase {
    case .serving:
      if !sawPart, reading == .nothing, unanswered == 0, !hasLastRequest {
        // Bytes came, and they are not a whole head.
        reading = .head
        setInputDeadline(limits.headTime, context)
      } else if reading == .body, inputDeadline == nil {
        setInputDeadline(limits.bodyTime, context)
      }
      sawPart = false
    case .ending, .ended: break
    }
    context.fireChannelReadComplete()
  }

  /// The channel asks after each read. What no request is in is read slowly: a client that sends without an end costs no
  /// processor, and does not lose its answer, as it would if the connection were closed over what it sent.
  func read(context: ChannelHandlerContext) {
    guard isDone else { return context.read() }
    guard !isReadDue else { return }
    isReadDue = true
    context.eventLoop.assumeIsolated().scheduleTask(in: Self.restPause) { [self] in
      isReadDue = false
      context.read()
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard phase == .serving else { return }
    switch error {
    case is ChannelError, is IOError: context.fireErrorCaught(error)
    case HTTPParserError.headerOverflow: refuse(.headTooLarge(limits), context)
    case HTTPParserError.invalidVersion: refuse(.versionNotSupported, context)
    case HTTPParserError.invalidMethod: refuse(.methodNotImplemented, context)
    case let problem as Problem: refuse(problem, context)
    default: refuse(.malformed, context)
    }
  }

  // MARK: - What the server answers

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard phase != .ended else {
      promise?.fail(ChannelError.ioOnClosedChannel)
      return
    }
    switch unwrapOutboundIn(data) {
    case .head(var head) where head.status.kind != .informational:
      isAnswerBegun = true
      isAnswerEndless = head.headerFields[.contentLength] == nil
      guard unanswered == 1, reading == .body else { break }
      head.headerFields[.connection] = "close"
      context.write(wrapOutboundOut(.head(head)), promise: promise)
      return
    case .body where isAnswerEndless: return writeWatched(data, promise, context)
    case .head, .body: break
    case .end:
      isAnswerBegun = false
      unanswered -= 1
      connection?.waits()
      // The rest of a body that the answer did not need could be endless; and after a malformed request there is none.
      guard unanswered < 0 || (unanswered == 0 && reading == .body) else {
        context.write(data, promise: promise)
        return sendContinue(context)
      }
      context.writeAndFlush(data, promise: promise)
      linger(context)
      return
    }
    context.write(data, promise: promise)
  }

  /// Tells the client to send the body that it holds back, once no other answer is due before.
  private func sendContinue(_ context: ChannelHandlerContext) {
    guard owesContinue, unanswered == 1, reading == .body, !isAnswerBegun else { return }
    owesContinue = false
    context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
  }

  /// Writes a part of an endless answer, which the client has to take in time.
  private func writeWatched(_ data: NIOAny, _ promise: EventLoopPromise<Void>?, _ context: ChannelHandlerContext) {
    let promise = promise ?? context.eventLoop.makePromise()
    unwritten += 1
    if outputDeadline == nil {
      outputDeadline = context.eventLoop.now + TimeAmount(limits.writeTime)
      setTimer(context)
    }
    promise.futureResult.assumeIsolated().whenComplete { [self] _ in
      unwritten -= 1
      if unwritten == 0 { outputDeadline = nil }
    }
    context.write(data, promise: promise)
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      if unwritten == 0 { outputDeadline = nil }
    } else if phase == .serving, outputDeadline == nil {
      outputDeadline = context.eventLoop.now + TimeAmount(limits.writeTime)
      setTimer(context)
    }
    context.fireChannelWritabilityChanged()
  }

  // MARK: - Refusing

  /// Answers with a problem, if it is this request's turn, and ends the connection.
  private func refuse(_ problem: Problem, _ context: ChannelHandlerContext) {
    let isOwnTurn = unanswered == 0 || (unanswered == 1 && reading == .body && !isAnswerBegun)
    guard isOwnTurn else { return stopReading(context) }
    let body = problem.json.bytes
    let head = HTTPResponse(
      status: problem.status,
      headerFields: [
        .contentType: "application/problem+json", .contentLength: "\(body.count)", .connection: "close",
        .xContentTypeOptions: "nosniff", .cacheControl: "no-store",
      ])
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    context.write(wrapOutboundOut(.body(ByteBuffer(bytes: body))), promise: nil)
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
    linger(context)
    // The server must not take the body for whole. It answers this error with one of its own, which is not sent.
    context.fireErrorCaught(HTTPParserError.unknown)
  }

  /// Lets the server answer what came before; it then answers the error with a bare 400, which ends the connection.
  private func stopReading(_ context: ChannelHandlerContext) {
    phase = .ending
    inputDeadline = nil
    context.fireErrorCaught(HTTPParserError.unknown)
  }

  /// The handler behind this one ends its answers so, too.
  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    guard mode == .output, phase != .ended else { return context.close(mode: mode, promise: promise) }
    linger(context, promise)
  }

  private func linger(_ context: ChannelHandlerContext, _ promise: EventLoopPromise<Void>? = nil) {
    phase = .ended
    reading = .nothing
    outputDeadline = nil
    inputDeadline = context.eventLoop.now + Self.lingerTime
    setTimer(context)
    context.close(mode: .output, promise: promise)
  }

  // MARK: - Time

  private func setInputDeadline(_ time: Duration, _ context: ChannelHandlerContext) {
    inputDeadline = context.eventLoop.now + TimeAmount(time)
    setTimer(context)
  }

  /// One timer for all deadlines, which stays when they are met: setting it is the rare case.
  private func setTimer(_ context: ChannelHandlerContext) {
    guard let time = [inputDeadline, outputDeadline].compactMap({ $0 }).min() else { return }
    if let timer {
      guard time < timer.time else { return }
      timer.task.cancel()
    }
    let task = context.eventLoop.assumeIsolated().scheduleTask(deadline: time) { [self] in timerFired(context) }
    timer = (task, time)
  }

  private func timerFired(_ context: ChannelHandlerContext) {
    timer = nil
    let now = context.eventLoop.now
    if let outputDeadline, outputDeadline <= now { return context.close(promise: nil) }
    if let inputDeadline, inputDeadline <= now {
      self.inputDeadline = nil
      if phase == .ended { return context.close(promise: nil) }
      return refuse(.tooSlow, context)
    }
    setTimer(context)
  }
}

/// Throws away what follows the last request before the decoder gets it, which would keep all that comes behind a CONNECT
/// or an upgrade in memory.
private final class RestDropper: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer

  private let connection: ConnectionGuard

  init(_ connection: ConnectionGuard) { self.connection = connection }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if !connection.isDone { context.fireChannelRead(data) }
  }
}

extension Problem {
  fileprivate static func headTooLarge(_ limits: HTTPLimits) -> Problem {
    Problem(
      status: .requestHeaderFieldsTooLarge, name: "head-too-large",
      detail: "A request's head may have at most \(limits.headBytes) bytes and \(limits.headFields) fields.")
  }

  fileprivate static func uriTooLong(limit: Int) -> Problem {
    Problem(status: .uriTooLong, name: "uri-too-long", detail: "Path and query may have at most \(limit) bytes.")
  }

  static func bodyTooLarge(limit: Int) -> Problem {
    Problem(
      status: .contentTooLarge, name: "content-too-large", detail: "The body may have at most \(limit) bytes.")
  }

  fileprivate static let versionNotSupported = Problem(
    status: .httpVersionNotSupported, name: "version-not-supported", detail: "This server speaks HTTP/1.1 and HTTP/1.0."
  )

  fileprivate static let methodNotImplemented = Problem(
    status: .notImplemented, name: "method-not-implemented", detail: "There is no such method here.")

  fileprivate static let malformed = Problem.badRequest("This is no HTTP/1.1 request.")

  fileprivate static let tooSlow = Problem(
    status: .requestTimeout, name: "too-slow", detail: "The request did not come in time.")
}
