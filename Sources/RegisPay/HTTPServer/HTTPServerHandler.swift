import DequeModule
import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOPosix

/// Turns the parts of one connection's requests into calls of a responder, one at a time, and writes the answers.
///
/// All state is touched on the connection's event loop only. Requests that come before the answer to an earlier one
/// wait here; ``ConnectionGuard`` sees to it that they are few, and bodies short.
final class HTTPServerHandler<Answerer: HTTPResponder>: ChannelInboundHandler
where Answerer.Context: RequestContext, Answerer.Context.Source == ApplicationRequestContextSource {
  typealias InboundIn = HTTPRequestPart
  typealias OutboundOut = HTTPResponsePart

  private enum State {
    /// Between requests; closed when it lasts.
    case idle(Scheduled<Void>?)
    case reading(HTTPRequest, ByteBuffer)
    /// The task writes the answer when it has one.
    case answering(Task<Void, Never>?, closes: Bool)
    /// Answered for the last time: what comes is thrown away.
    case refused
  }

  private let responder: Answerer
  private let idleTime: TimeAmount
  private let logger: Logger
  private var state = State.idle(nil)
  private var executor: LoopExecutor?
  private var channel: (any Channel)?
  private var isInputClosed = false
  private var isStopping = false
  /// What came while an answer was due, in order.
  private var held: Deque<HTTPRequestPart> = []
  /// What comes after those is no request.
  private var isMalformedAfterHeld = false
  /// Part of an answer has gone, and more will follow.
  private var isStreaming = false
  /// The answer has no length: it goes on until the client has gone.
  private var isEndless = false

  init(responder: Answerer, idleTime: TimeAmount, logger: Logger) {
    self.responder = responder
    self.idleTime = idleTime
    self.logger = logger
  }

  func handlerAdded(context: ChannelHandlerContext) {
    executor = LoopExecutor(context.eventLoop)
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
    case .answering(let task, _): task?.cancel()
    case .reading, .refused: break
    }
    state = .refused
    held = []
    channel = nil
    context.fireChannelInactive()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let part = unwrapInboundIn(data)
    if case .answering = state { held.append(part) } else { take(part, context) }
  }

  /// Goes on with what was held, until the next request is whole.
  private func takeHeld(_ context: ChannelHandlerContext) {
    while let part = held.first {
      if case .answering = state { return }
      held.removeFirst()
      take(part, context)
    }
    switch state {
    case .idle(let timer) where isMalformedAfterHeld:
      timer?.cancel()
      refuse(context)
    case .reading where isMalformedAfterHeld: refuse(context)
    // The rest of what was begun will not come. An answer that was the last has closed the connection itself.
    case .idle, .reading: if isInputClosed || isStopping { context.close(promise: nil) }
    case .answering, .refused: break
    }
  }

  /// No request can follow the one that is being answered.
  private var isLast: Bool { (isInputClosed || isStopping) && held.isEmpty && !isMalformedAfterHeld }

  private func take(_ part: HTTPRequestPart, _ context: ChannelHandlerContext) {
    switch (part, state) {
    case (.head(let head), .idle(let timer)):
      timer?.cancel()
      state = .reading(head, ByteBuffer())
    case (.body(var part), .reading(let head, var body)):
      // The buffer must have one owner, or writing to it copies it.
      state = .refused
      body.writeBuffer(&part)
      state = .reading(head, body)
    case (.end, .reading(let head, let body)): answer(head, body, context)
    // The rest of what was refused.
    case (_, .refused): break
    case (let part, _): logger.error("a part of a request came out of order", metadata: ["part": "\(part)"])
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case ChannelEvent.inputClosed = event {
      isInputClosed = true
      switch state {
      // Of an answer without an end the client's end is the end. What the system does not take now is left: it would keep
      // the connection for a client that does not read.
      case .answering where isEndless:
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        context.close(promise: nil)
      // It may still read the answers.
      case .answering: break
      case .idle, .reading, .refused: context.close(promise: nil)
      }
    }
    context.fireUserInboundEventTriggered(event)
  }

  /// The server stops: answers that are due are the last, and one without an end is ended.
  func stop() {
    isStopping = true
    switch state {
    case .idle, .reading: channel?.close(promise: nil)
    case .answering(let task, _): if isStreaming { task?.cancel() }
    case .refused: break
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard error is HTTPParserError else {
      logger.debug("a connection failed", metadata: ["error": "\(error)"])
      return context.close(promise: nil)
    }
    // What follows is no request. The guard has answered that, or leaves it to us, if an answer was still due before.
    switch state {
    case .answering: isMalformedAfterHeld = true
    case .idle(let timer):
      timer?.cancel()
      refuse(context)
    case .reading: refuse(context)
    case .refused: break
    }
  }

  private func refuse(_ context: ChannelHandlerContext) {
    state = .answering(nil, closes: true)
    _ = write([.head(HTTPResponse(status: .badRequest, headerFields: [.contentLength: "0"])), .end(nil)], context)
  }

  private func becomeIdle(_ context: ChannelHandlerContext) {
    let channel = context.channel
    state = .idle(context.eventLoop.scheduleTask(in: idleTime) { channel.close(promise: nil) })
  }

  private func answer(_ head: HTTPRequest, _ body: ByteBuffer, _ context: ChannelHandlerContext) {
    let closes = head.headerFields[.connection]?.lowercased() == "close"
    state = .answering(nil, closes: closes)
    let writer = AnswerWriter(NIOLoopBound((self, context), eventLoop: context.eventLoop), context.channel)
    let request = Request(head: head, body: RequestBody(buffer: body))
    let channel = context.channel
    let exchange = Answerer.Context(source: ApplicationRequestContextSource(channel: channel, logger: logger))
    let task = Task(executorPreference: executor) { [responder, logger] in
      do {
        let response = try await responder.respond(to: request, context: exchange)
        try await writer.write(response)
      } catch {
        // Responders answer errors themselves: what comes here is a connection that was lost under an answer.
        logger.debug("an answer could not be written", metadata: ["error": "\(error)"])
        channel.close(promise: nil)
      }
    }
    // The task may be done only after this function: it runs on this very loop.
    state = .answering(task, closes: closes)
  }

  /// A part of the answer, from its task.
  fileprivate func write(_ parts: [HTTPResponsePart], _ context: ChannelHandlerContext) -> EventLoopFuture<Void>? {
    guard case .answering(_, let isAskedToClose) = state else { return nil }
    // Looked at now: the client may have ended while its answer was made, and must get all of it.
    let closes = isAskedToClose || isLast
    var isEnd = false
    var last: EventLoopFuture<Void>?
    for (number, part) in parts.enumerated() {
      var part = part
      if case .head(var head) = part {
        isEndless =
          head.headerFields[.contentLength] == nil && head.status.kind == .successful && head.status != .noContent
        if isEndless, isInputClosed { return writeAsWhole(head, parts.dropFirst(), context) }
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
        // Before the last part goes: the next request may follow from its being written.
        if isEnd { becomeIdle(context) }
        context.write(wrapOutboundOut(part), promise: nil)
      }
    }
    context.flush()
    isStreaming = !isEnd
    if isEnd { isEndless = false }
    if isEnd { takeHeld(context) }
    return isEnd ? nil : last
  }

  /// Begins and ends an answer that would go on until the client's end, which has come already: what comes with its head
  /// is all there is of it. An answer that says nothing could not be told from a fault.
  ///
  /// - Returns: a failure by which the answer's task ends.
  private func writeAsWhole(
    _ head: HTTPResponse, _ parts: ArraySlice<HTTPResponsePart>, _ context: ChannelHandlerContext
  ) -> EventLoopFuture<Void> {
    if case .answering(let task, _) = state { task?.cancel() }
    isEndless = false
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
    state = .refused
    let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
    let isInputClosed = isInputClosed
    written.whenComplete { _ in
      let context = bound.value
      guard !isInputClosed else { return context.close(promise: nil) }
      // Closed whole, what the client still sends would make the system throw the answer away. The guard waits for its end.
      context.close(mode: .output, promise: nil)
    }
  }
}

/// Writes an answer from its task.
private struct AnswerWriter<Answerer: HTTPResponder>: Sendable
where Answerer.Context: RequestContext, Answerer.Context.Source == ApplicationRequestContextSource {
  private let bound: NIOLoopBound<(HTTPServerHandler<Answerer>, ChannelHandlerContext)>
  private let channel: any Channel

  init(_ bound: NIOLoopBound<(HTTPServerHandler<Answerer>, ChannelHandlerContext)>, _ channel: any Channel) {
    self.bound = bound
    self.channel = channel
  }

  func write(_ response: Response) async throws {
    var head = response.head
    head.headerFields[.date] = HTTPDate.now()
    let writer = BodyWriter(answer: self, head: head, length: response.body.contentLength)
    try await response.body.write(writer)
  }

  /// - Throws: when the connection is gone.
  func send(_ parts: [HTTPResponsePart]) async throws {
    let loop = channel.eventLoop
    if loop.inEventLoop {
      // Small answers end here: nobody waits for the end of an answer.
      if let written = sendOnLoop(parts) { try await written.get() }
    } else {
      let written = loop.submit { self.sendOnLoop(parts) }
      if let written = try await written.get() { try await written.get() }
    }
  }

  private func sendOnLoop(_ parts: [HTTPResponsePart]) -> EventLoopFuture<Void>? {
    let (handler, context) = bound.value
    return handler.write(parts, context)
  }
}

/// Holds the head and a body of known length back until all of it is there, so that an answer is one write.
private struct BodyWriter<Answerer: HTTPResponder>: ResponseBodyWriter
where Answerer.Context: RequestContext, Answerer.Context.Source == ApplicationRequestContextSource {
  let answer: AnswerWriter<Answerer>
  private var held: [HTTPResponsePart]
  private var isHolding: Bool

  init(answer: AnswerWriter<Answerer>, head: HTTPResponse, length: Int?) {
    self.answer = answer
    held = [.head(head)]
    isHolding = length.map { $0 <= 1 << 20 } ?? false
  }

  mutating func write(_ buffer: ByteBuffer) async throws {
    held.append(.body(buffer))
    guard !isHolding else { return }
    let parts = held
    held = []
    try await answer.send(parts)
  }

  consuming func finish(_ trailers: HTTPFields?) async throws {
    held.append(.end(trailers))
    try await answer.send(held)
  }
}
