import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOHTTPTypes

/// Decides from a request's head, before its body arrives: a problem refuses the request. Called on the connection's event loop, which
/// it must not block.
typealias HeadCheck = @Sendable (HTTPRequest, any Channel) -> Problem?

/// Holds one connection to the limits: the time for heads, bodies and unread responses, the size of what the client sends, and
/// the number of its requests.
///
/// It stands between the HTTP decoder and ``HTTPServerHandler``, on the connection's event loop. An ordinary request, which
/// arrives in one piece, costs neither a timer nor an allocation here.
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
    /// The server responds to what has arrived and reads no further request.
    case ending
    /// The last response is written. What the client still sends is dropped for a moment: closing a connection with unread
    /// bytes would discard the response as well.
    case ended
  }

  /// How long a client may continue to send after the last response before the connection is cut.
  private static let lingerTime = TimeAmount.seconds(2)
  /// Pause between two reads, of at most 16 KiB, of what a client sends after its last request: 1.6 MiB a second.
  private static let trailingReadPause = TimeAmount.milliseconds(10)

  let limits: HTTPLimits
  private let table: ConnectionTable
  private let internalToken: InternalToken
  private let checkHead: HeadCheck?
  private let metrics: HTTPMetrics?
  private var connection: ConnectionTable.Connection?
  private var phase = Phase.serving
  private var reading = Reading.nothing
  /// The decoder has produced a part since the last `channelReadComplete`.
  private var sawPart = false
  /// Requests whose head was passed on and whose response is not complete.
  private var pendingResponses = 0
  private var isResponseStarted = false
  private let incoming = IncomingRequest()
  /// The client waits for `100 Continue` before it sends the body.
  private var owesContinue = false
  private var isFirstRequest = true
  /// The connection ends with the response to the latest request.
  private var endsConnection = false
  /// The request that ends the connection has arrived completely.
  private var hasLastRequest = false
  private var deadlines = ConnectionDeadlines()
  private var isReadScheduled = false
  /// The channel has asked to read, and must wait: see ``mayRead(_:)``.
  private var isReadWithheld = false

  /// - Parameters:
  ///   - metrics: counts what is refused.
  ///   - checkHead: is asked for each request with a body, before the body is kept.
  ///   - connection: what the table has admitted already; nil if that is to be done.
  init(
    limits: HTTPLimits, table: ConnectionTable, internalToken: InternalToken, metrics: HTTPMetrics? = nil,
    checkHead: HeadCheck? = nil, connection: ConnectionTable.Connection? = nil
  ) {
    self.connection = connection
    self.limits = limits
    self.table = table
    self.internalToken = internalToken
    self.metrics = metrics
    self.checkHead = checkHead
  }

  // MARK: - Opening and closing

  func handlerAdded(context: ChannelHandlerContext) {
    if context.channel.isActive { open(context) }
  }

  func channelActive(context: ChannelHandlerContext) {
    open(context)
    context.fireChannelActive()
  }

  private func open(_ context: ChannelHandlerContext) {
    guard connection == nil else { return }
    let connection = ConnectionTable.Connection(context.channel, proxies: table.proxies)
    self.connection = connection
    if !table.admit(connection) { drop(context) }
  }

  private func drop(_ context: ChannelHandlerContext) {
    phase = .ended
    context.channel.cutOff()
  }

  func channelInactive(context: ChannelHandlerContext) {
    cleanUp()
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) { cleanUp() }

  private func cleanUp() {
    holdUnread(0)
    incoming.release(of: connection, in: table)
    if let connection { table.remove(connection) }
    deadlines.cancel()
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    // Unless it has been completed since.
    switch event as? HeldBytes.Refused {
    case .head?: return phase == .serving && incoming.holdsHead ? refuse(.tooManyHeads, context) : ()
    case .body?: return phase == .serving && reading == .body ? refuse(.tooManyBodies, context) : ()
    case nil: break
    }
    // The client may still read the last response, for as long as the connection lingers.
    if phase == .ended, context.channel.isWritable, case .inputClosed? = event as? ChannelEvent {
      context.close(promise: nil)
    }
    context.fireUserInboundEventTriggered(event)
  }

  // MARK: - Requests

  /// No request follows; further bytes are dropped.
  var dropsInput: Bool { phase != .serving || hasLastRequest }

  /// Notes bytes from the socket, before they are decoded.
  func received(_ byteCount: Int) {
    if reading != .body { incoming.receiveHead(byteCount) }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard phase == .serving else { return }
    sawPart = true
    switch unwrapInboundIn(data) {
    case .head(let head): return receive(head, data, context)
    case .body(let buffer):
      owesContinue = false
      do throws(Problem) {
        try incoming.body.receive(buffer.readableBytes, limit: limits.bodyBytes)
      } catch {
        return refuse(error, context)
      }
      if incoming.body.isDropped { return }
    case .end:
      owesContinue = false
      reading = .nothing
      incoming.releaseBody(of: connection, in: table)
      hasLastRequest = endsConnection
      deadlines.removeInput()
      connection?.stopsWaiting()
    }
    context.fireChannelRead(data)
  }

  private func receive(_ head: HTTPRequest, _ data: NIOAny, _ context: ChannelHandlerContext) {
    incoming.completeHead(of: connection, in: table)
    guard isCounted(head) else { return drop(context) }
    guard pendingResponses < limits.pipelinedRequests else {
      return refuse(.tooManyPipelined(limit: limits.pipelinedRequests), context)
    }
    if let problem = limits.problem(
      with: head, mayHaveBody: IncomingBody.isAnnounced(by: head), from: context.channel, checkHead)
    {
      return refuse(problem, context)
    }
    // Only now: the body of a request refused at its head is not read, and the handler owes it no response.
    reading = .body
    deadlines.removeInput()
    incoming.body.begin(head)
    pendingResponses += 1
    endsConnection = head.headerFields[.connection] == "close"
    owesContinue = head.headerFields[.expect] != nil
    // Passed on first: the handler may respond at once, which makes `100 Continue` unnecessary.
    context.fireChannelRead(data)
    sendContinue(context)
  }

  /// Decides with the first request whether the connection counts for the limits. The server's own calls don't: an attacker who
  /// fills the table must not stop payments that are being processed.
  ///
  /// - Returns: false when the connection's address has too many connections.
  private func isCounted(_ head: HTTPRequest) -> Bool {
    guard isFirstRequest else { return true }
    isFirstRequest = false
    guard let connection else { return true }
    if let field = head.headerFields[.authorization], internalToken.matches(field) {
      table.remove(connection)
      self.connection = nil
      return true
    }
    return !connection.isLocal || table.count(connection)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    switch phase {
    case .serving:
      if reading == .body {
        awaitBody(context)
      } else if !sawPart, !hasLastRequest {
        // Bytes have arrived that are not a complete head.
        if reading == .nothing, pendingResponses == 0 {
          reading = .head
          setInputDeadline(limits.headTime, context)
        }
        incoming.holdHead(of: connection, in: table)
      }
      sawPart = false
    case .ending, .ended: break
    }
    context.fireChannelReadComplete()
  }

  /// The body has not arrived completely with what was read.
  private func awaitBody(_ context: ChannelHandlerContext) {
    if deadlines.input == nil { setInputDeadline(limits.bodyTime, context) }
    incoming.holdBody(of: connection, in: table)
  }

  /// The channel asks after each read. Bytes that belong to no request are read slowly: a client that sends without end costs
  /// no processor time, and does not lose its response, as it would if the connection were closed with unread bytes.
  func read(context: ChannelHandlerContext) {
    guard dropsInput else {
      guard mayRead(context) else { return withholdRead() }
      return context.read()
    }
    guard !isReadScheduled else { return }
    isReadScheduled = true
    context.eventLoop.assumeIsolated().scheduleTask(in: Self.trailingReadPause) { [self] in
      isReadScheduled = false
      context.read()
    }
  }

  /// A client that has requests waiting, or a response to read, must wait with the next request. So a connection holds in memory
  /// what one read has brought and one response.
  private func mayRead(_ context: ChannelHandlerContext) -> Bool {
    pendingResponses < 2 && context.channel.isWritable
  }

  private func withholdRead() {
    isReadWithheld = true
    // The client can't send in time what the server does not read.
    deadlines.removeInput()
  }

  private func resumeReading(_ context: ChannelHandlerContext) {
    guard isReadWithheld, dropsInput || mayRead(context) else { return }
    isReadWithheld = false
    if phase == .serving {
      switch reading {
      case .nothing: break
      case .head: setInputDeadline(limits.headTime, context)
      case .body: setInputDeadline(limits.bodyTime, context)
      }
    }
    read(context: context)
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

  // MARK: - Responses

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard phase != .ended else {
      promise?.fail(ChannelError.ioOnClosedChannel)
      return
    }
    switch unwrapOutboundIn(data) {
    case .head(var head) where head.status.kind != .informational:
      isResponseStarted = true
      guard pendingResponses == 1, reading == .body else { break }
      head.headerFields[.connection] = "close"
      context.write(wrapOutboundOut(.head(head)), promise: promise)
      return
    case .head, .body: break
    case .end:
      isResponseStarted = false
      pendingResponses -= 1
      connection?.startsWaiting()
      // A body that the response did not need could be endless, and after a malformed request no request follows.
      guard pendingResponses < 0 || (pendingResponses == 0 && reading == .body) else {
        context.write(data, promise: promise)
        return sendContinue(context)
      }
      context.writeAndFlush(data, promise: promise)
      linger(context)
      return
    }
    context.write(data, promise: promise)
  }

  /// Asks the client to send the body that it holds back, once no other response comes before this one.
  private func sendContinue(_ context: ChannelHandlerContext) {
    guard owesContinue, pendingResponses == 1, reading == .body, !isResponseStarted else { return }
    owesContinue = false
    context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
  }

  func flush(context: ChannelHandlerContext) {
    context.flush()
    // Only now is it known whether the socket has taken the response.
    resumeReading(context)
  }

  /// ``SocketEdge`` reports that a response waits for its client, or that all has left.
  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      deadlines.removeOutput()
      resumeReading(context)
    } else if phase != .ended, deadlines.output == nil {
      setOutputDeadline(context)
    }
    context.fireChannelWritabilityChanged()
  }

  /// - Parameter byteCount: bytes of responses that wait in memory for this connection's client.
  func holdUnread(_ byteCount: Int) {
    if let connection { table.unread.set(byteCount, of: connection) }
  }

  // MARK: - Refusals

  /// Ends the connection with a problem as its last response. ``HTTPServerHandler`` writes the problem once it has responded to earlier
  /// requests.
  private func refuse(_ problem: Problem, _ context: ChannelHandlerContext) {
    phase = .ending
    metrics?.countRefusal(status: problem.status.code)
    deadlines.removeInput()
    incoming.release(of: connection, in: table)
    resumeReading(context)
    context.fireErrorCaught(problem)
  }

  /// ``HTTPServerHandler`` also ends its last response with a close of the output.
  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    guard mode == .output, phase != .ended else { return context.close(mode: mode, promise: promise) }
    linger(context, promise)
  }

  private func linger(_ context: ChannelHandlerContext, _ promise: EventLoopPromise<Void>? = nil) {
    phase = .ended
    reading = .nothing
    deadlines.removeOutput()
    deadlines.setInput(Self.lingerTime, on: context.eventLoop) { [self] in timerFired(context) }
    resumeReading(context)
    context.close(mode: .output, promise: promise)
  }

  // MARK: - Deadlines

  private func setInputDeadline(_ time: Duration, _ context: ChannelHandlerContext) {
    deadlines.setInput(TimeAmount(time), on: context.eventLoop) { [self] in timerFired(context) }
  }

  private func setOutputDeadline(_ context: ChannelHandlerContext) {
    deadlines.setOutput(TimeAmount(limits.writeTime), on: context.eventLoop) { [self] in timerFired(context) }
  }

  private func timerFired(_ context: ChannelHandlerContext) {
    switch deadlines.timerFired(on: context.eventLoop, onTimer: { [self] in timerFired(context) }) {
    // It has not read for as long as it may.
    case .output: context.channel.cutOff()
    case .input: if phase == .ended { context.close(promise: nil) } else { refuse(.tooSlow, context) }
    case nil: break
    }
  }
}
