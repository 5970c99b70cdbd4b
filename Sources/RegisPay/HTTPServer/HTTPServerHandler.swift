import DequeModule
import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOPosix

/// Assembles the parts of one connection's requests, calls a responder for one request at a time, and writes the responses.
///
/// All state is used on the connection's event loop only. Requests that arrive before the response to an earlier one has left
/// wait here; ``ConnectionGuard`` keeps them few, and bodies short.
final class HTTPServerHandler<Responder: HTTPResponder>: ChannelInboundHandler
where Responder.Context: RequestContext, Responder.Context.Source == ApplicationRequestContextSource {
  typealias InboundIn = HTTPRequestPart
  typealias OutboundOut = HTTPResponsePart

  private enum State {
    /// Between requests. The timer closes the connection.
    case idle(Scheduled<Void>?)
    case reading(HTTPRequest, ByteBuffer)
    /// The task runs the responder and writes the response.
    case responding(Task<Void, Never>?, closes: Bool)
    /// The last response is written or being written. Further parts are dropped.
    case finished
  }

  private let responder: Responder
  private let idleTime: TimeAmount
  private let metrics: HTTPMetrics?
  private let logger: Logger
  private var state = State.idle(nil)
  private var executor: LoopExecutor?
  private var channel: (any Channel)?
  private var isInputClosed = false
  private var isStopping = false
  /// Parts that arrived while a response was pending or unread, in order.
  private(set) var queuedParts: Deque<HTTPRequestPart> = []
  /// The last response, after those to `queuedParts`: to a request that ``ConnectionGuard`` refuses, or to bytes that are no request.
  private var refusal: Problem?
  /// A part of the response is written, and more will follow.
  private var isStreaming = false
  /// The response has no length: it lasts until the client closes the connection.
  private var isUnbounded = false

  init(responder: Responder, idleTime: TimeAmount, metrics: HTTPMetrics? = nil, logger: Logger) {
    self.responder = responder
    self.idleTime = idleTime
    self.metrics = metrics
    self.logger = logger
  }

  func handlerAdded(context: ChannelHandlerContext) {
    executor = LoopExecutor.of(context.eventLoop)
    channel = context.channel
    if context.channel.isActive { becomeIdle(context) }
  }

  func channelActive(context: ChannelHandlerContext) {
    becomeIdle(context)
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    switch state {
    case .idle(let timer): timer?.cancel()
    case .responding(let task, _): task?.cancel()
    case .reading, .finished: break
    }
    state = .finished
    queuedParts = []
    channel = nil
    context.fireChannelInactive()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let part = unwrapInboundIn(data)
    if !queuedParts.isEmpty || mustWait(context) { queue(part) } else { take(part, context) }
  }

  /// Joins a body's parts, so that a queue is as short as its requests are few: its memory stays when it is empty.
  private func queue(_ part: HTTPRequestPart) {
    guard case .body(var part) = part, case .body(var body)? = queuedParts.last else { return queuedParts.append(part) }
    // The buffer must have one owner, or writing to it copies it.
    queuedParts.removeLast()
    body.writeBuffer(&part)
    queuedParts.append(.body(body))
  }

  /// Whether the next part belongs to a request that is not processed yet: a client that does not read its responses gets no
  /// further ones, which would fill the memory.
  private func mustWait(_ context: ChannelHandlerContext) -> Bool {
    switch state {
    case .responding: true
    case .idle: !context.channel.isWritable
    case .reading, .finished: false
    }
  }

  /// All responses have left, or one waits for its client.
  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable { takeQueued(context) }
    context.fireChannelWritabilityChanged()
  }

  /// Processes queued parts until the next request is complete.
  private func takeQueued(_ context: ChannelHandlerContext) {
    while let part = queuedParts.first {
      if mustWait(context) { return }
      queuedParts.removeFirst()
      take(part, context)
    }
    switch state {
    // The rest of a request will not arrive. A last response has closed the connection itself.
    case .idle, .reading:
      if let refusal {
        refuse(refusal, context)
      } else if isInputClosed || isStopping {
        closeOnceRead(context.channel)
      }
    case .responding, .finished: break
    }
  }

  /// Closes a connection that serves no further request. Closing drops what the client has not read, so an unread response keeps
  /// it open, for at most the write timeout; ``channelWritabilityChanged(context:)`` comes back then.
  private func closeOnceRead(_ channel: any Channel) {
    if channel.isWritable { channel.close(promise: nil) }
  }

  /// No request can follow the current one.
  private var isLast: Bool { (isInputClosed || isStopping) && queuedParts.isEmpty && refusal == nil }

  private func take(_ part: HTTPRequestPart, _ context: ChannelHandlerContext) {
    switch (part, state) {
    case (.head(let head), .idle(let timer)):
      timer?.cancel()
      state = .reading(head, ByteBuffer())
    case (.body(var part), .reading(let head, var body)):
      // The buffer must have one owner, or writing to it copies it.
      state = .finished
      body.writeBuffer(&part)
      state = .reading(head, body)
    case (.end, .reading(let head, let body)): respond(to: head, body, context)
    // The rest of a refused request.
    case (_, .finished): break
    case (let part, _): logger.error("request part out of order", metadata: ["part": "\(part)"])
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case ChannelEvent.inputClosed = event {
      isInputClosed = true
      switch state {
      // An unbounded response ends when the client closes its side. Data that the system does not take now is dropped: it
      // would keep the connection open for a client that does not read.
      case .responding where isUnbounded:
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        context.close(promise: nil)
      // The client may still read the response.
      case .responding: break
      case .idle, .reading, .finished: closeOnceRead(context.channel)
      }
    }
    context.fireUserInboundEventTriggered(event)
  }

  /// How long a connection may still bring a request when the server stops.
  private static var drainTime: TimeAmount { .milliseconds(250) }

  /// The server stops: pending responses are the last, and an unbounded response ends. A client that keeps a connection open may
  /// be sending its next request at this moment: that one is responded to as well.
  func stop() {
    isStopping = true
    switch state {
    case .idle, .reading:
      channel?.eventLoop.assumeIsolated().scheduleTask(in: Self.drainTime) { [weak self] in self?.endDraining() }
    case .responding(let task, _): if isStreaming { task?.cancel() }
    case .finished: break
    }
  }

  private func endDraining() {
    switch state {
    case .idle, .reading: if let channel, channel.isWritable { channel.close(within: Self.drainTime) }
    case .responding, .finished: break
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard let problem = error as? Problem else {
      logger.debug("connection failed", metadata: ["error": "\(error)"])
      return context.close(promise: nil)
    }
    switch state {
    case .responding: refusal = problem
    case .idle where !queuedParts.isEmpty: refusal = problem
    case .idle, .reading: refuse(problem, context)
    case .finished: break
    }
  }

  private func refuse(_ problem: Problem, _ context: ChannelHandlerContext) {
    if case .idle(let timer) = state { timer?.cancel() }
    state = .responding(nil, closes: true)
    _ = write(problem.parts, context)
  }

  private func becomeIdle(_ context: ChannelHandlerContext) {
    let channel = context.channel
    state = .idle(context.eventLoop.scheduleTask(in: idleTime) { channel.close(promise: nil) })
  }

  private func respond(to head: HTTPRequest, _ body: ByteBuffer, _ context: ChannelHandlerContext) {
    let closes = head.headerFields[.connection]?.lowercased() == "close"
    state = .responding(nil, closes: closes)
    let writer = ResponsePartWriter(NIOLoopBound((self, context), eventLoop: context.eventLoop), context.channel)
    let request = Request(head: head, body: RequestBody(buffer: body))
    let channel = context.channel
    let requestContext = Responder.Context(source: ApplicationRequestContextSource(channel: channel, logger: logger))
    let start = MonotonicTime.nanoseconds
    let task = Task(executorPreference: executor) { [responder, metrics, logger] in
      do {
        let response = try await responder.respond(to: request, context: requestContext)
        metrics?.record(
          route: requestContext.endpointPath, head.method, status: response.status.code,
          nanoseconds: MonotonicTime.nanoseconds - start, traceParent: head.headerFields[.traceParent])
        try await writer.write(response)
      } catch {
        // Responders turn errors into responses, so this is a connection that was lost during a response.
        logger.debug("response not written", metadata: ["error": "\(error)"])
        channel.close(promise: nil)
      }
    }
    // The task can't have ended yet: it runs on this loop, after this function.
    state = .responding(task, closes: closes)
  }

  /// Writes parts of the response, for its task.
  ///
  /// - Returns: completes when these parts are written; nil when they end the response, or when no response is pending.
  func write(_ parts: [HTTPResponsePart], _ context: ChannelHandlerContext) -> EventLoopFuture<Void>? {
    guard case .responding(_, let isAskedToClose) = state else { return nil }
    // Decided now: the client may have closed its side during the request, and must still get the whole response.
    let closes = isAskedToClose || isLast
    var isEnd = false
    var last: EventLoopFuture<Void>?
    for (number, part) in parts.enumerated() {
      var part = part
      if case .head(var head) = part {
        isUnbounded =
          head.headerFields[.contentLength] == nil && head.status.kind == .successful && head.status != .noContent
        if isUnbounded, isInputClosed { return writeAsWhole(head, parts.dropFirst(), context) }
        if closes {
          head.headerFields[.connection] = "close"
          part = .head(head)
        }
      }
      if case .end = part { isEnd = true }
      if number == parts.count - 1, !isEnd || closes {
        let promise = context.eventLoop.makePromise(of: Void.self)
        last = promise.futureResult
        if isEnd { becomeClosing(context, promise.futureResult) }
        context.write(wrapOutboundOut(part), promise: promise)
      } else {
        // Before the last part is written: writing it may lead to the next request.
        if isEnd { becomeIdle(context) }
        context.write(wrapOutboundOut(part), promise: nil)
      }
    }
    context.flush()
    isStreaming = !isEnd
    if isEnd { isUnbounded = false }
    if isEnd { takeQueued(context) }
    return isEnd ? nil : last
  }

  /// Writes an unbounded response to a client that has closed its side already: its head and the parts that come with it are the
  /// whole response. The client could not distinguish an empty response from a fault.
  ///
  /// - Returns: a failure that ends the response's task.
  private func writeAsWhole(
    _ head: HTTPResponse, _ parts: ArraySlice<HTTPResponsePart>, _ context: ChannelHandlerContext
  ) -> EventLoopFuture<Void> {
    if case .responding(let task, _) = state { task?.cancel() }
    isUnbounded = false
    let written = context.eventLoop.makePromise(of: Void.self)
    becomeClosing(context, written.futureResult)
    var head = head
    head.headerFields[.connection] = "close"
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    for part in parts {
      if case .body = part { context.write(wrapOutboundOut(part), promise: nil) }
    }
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: written)
    return context.eventLoop.makeFailedFuture(CancellationError())
  }

  private func becomeClosing(_ context: ChannelHandlerContext, _ written: EventLoopFuture<Void>) {
    state = .finished
    let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
    let isInputClosed = isInputClosed
    written.whenComplete { _ in
      let context = bound.value
      guard !isInputClosed else { return context.close(promise: nil) }
      // After a full close, bytes that the client still sends would make the system discard the response. The guard waits for
      // the client's end.
      context.close(mode: .output, promise: nil)
    }
  }
}
