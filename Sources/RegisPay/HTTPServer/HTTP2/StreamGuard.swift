import HTTPTypes
import NIOCore
import NIOHTTP2
import NIOHTTPTypes
import NIOHTTPTypesHTTP2

/// Holds one HTTP/2 stream, which is one request, to the limits: the time for its body and for its unread response, and the size of what
/// the client sends. For HTTP/1, ``ConnectionGuard`` does so.
///
/// It stands between HTTP's codec and ``HTTPServerHandler``. Used on the connection's event loop only.
final class StreamGuard: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPRequestPart
  typealias InboundOut = HTTPRequestPart
  typealias OutboundIn = HTTPResponsePart
  typealias OutboundOut = HTTPResponsePart

  private enum Reading {
    case head, body
    /// The request is complete.
    case nothing
  }

  private let connection: HTTP2Connection
  private let streams: ConnectionTable
  private let checkHead: HeadCheck?
  private let metrics: HTTPMetrics?
  private let onStop: () -> Void
  private var entry: ConnectionTable.Connection?
  private var reading = Reading.head
  /// No part of the request is passed on any more: it is refused, or its response is complete.
  private var dropsInput = false
  private var isReset = false
  /// The request is complete, and its response is not.
  private var isPending = false
  private var isToHead = false
  private var isResponseStarted = false
  private let incoming = IncomingRequest()
  /// Bytes of the response that the client has not taken.
  private var unreadBytes = 0
  private var deadlines = ConnectionDeadlines()

  private var limits: HTTPLimits { connection.limits }
  private var table: ConnectionTable { connection.table }

  /// - Parameters:
  ///   - streams: the open streams of all connections.
  ///   - checkHead: is asked for each request that may have a body, before the body is kept.
  ///   - onStop: called when the server stops.
  init(
    _ connection: HTTP2Connection, streams: ConnectionTable, checkHead: HeadCheck?, metrics: HTTPMetrics?,
    onStop: @escaping () -> Void
  ) {
    self.connection = connection
    self.streams = streams
    self.checkHead = checkHead
    self.metrics = metrics
    self.onStop = onStop
  }

  // MARK: - Opening and closing

  func channelActive(context: ChannelHandlerContext) {
    let entry = ConnectionTable.Connection(context.channel, proxies: table.proxies)
    self.entry = entry
    context.fireChannelActive()
    // Every stream that a client has opened has one.
    let id = context.channel.syncOptions.flatMap { try? $0.getOption(HTTP2StreamChannelOptions.streamID) }
    guard let id, connection.open(ObjectIdentifier(self), id, stop: onStop), streams.admit(entry) else {
      return reset(.refusedStream, context)
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    cleanUp()
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) { cleanUp() }

  private func cleanUp() {
    isReset = true
    deadlines.cancel()
    guard let entry else { return }
    self.entry = nil
    table.unread.set(0, of: entry)
    incoming.release(of: entry, in: table)
    streams.remove(entry)
    completeResponse()
    connection.close(ObjectIdentifier(self))
  }

  private func completeResponse() {
    guard isPending else { return }
    isPending = false
    connection.completedResponse()
  }

  private func reset(_ code: NIOHTTP2.HTTP2ErrorCode, _ context: ChannelHandlerContext) {
    guard !isReset else { return }
    isReset = true
    dropsInput = true
    context.triggerUserOutboundEvent(NIOHTTP2FramePayloadToHTTPEvent.reset(code: code), promise: nil)
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    switch event {
    // Unless it has been completed since.
    case HeldBytes.Refused.body: if reading == .body, !dropsInput { refuse(.tooManyBodies, context) }
    // The end of the request, which has arrived as a part already.
    case ChannelEvent.inputClosed: return
    default: break
    }
    context.fireUserInboundEventTriggered(event)
  }

  func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
    guard event is CutOff else { return context.triggerUserOutboundEvent(event, promise: promise) }
    promise?.succeed()
    // A request that is not complete has not been processed, and can be made again.
    reset(reading == .nothing ? .cancel : .refusedStream, context)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // The stream's own end follows as `channelInactive`. Other errors are the codec's, for fields that are no request's.
    guard context.channel.isActive, !isReset, reading == .head, !dropsInput else { return }
    refuse(.badRequest("The fields are not those of an HTTP/2 request."), context)
  }

  // MARK: - The request

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !dropsInput else { return }
    switch unwrapInboundIn(data) {
    case .head(let head): return receive(head, context)
    case .body(let buffer):
      do throws(Problem) {
        try incoming.body.receive(buffer.readableBytes, limit: limits.bodyBytes)
      } catch {
        return refuse(error, context)
      }
      if !incoming.body.isDropped { context.fireChannelRead(data) }
    case .end:
      reading = .nothing
      incoming.releaseBody(of: entry, in: table)
      deadlines.removeInput()
      entry?.stopsWaiting()
      isPending = true
      connection.completedRequest()
      // Routes use no trailers.
      context.fireChannelRead(wrapInboundOut(.end(nil)))
    }
  }

  private func receive(_ head: HTTPRequest, _ context: ChannelHandlerContext) {
    isToHead = head.method == .head
    let request: HTTPRequest
    do throws(Problem) {
      request = try checked(head, context.channel)
    } catch {
      return refuse(error, context)
    }
    reading = .body
    incoming.body.begin(request)
    let awaitsContinue = request.headerFields[.expect] != nil
    context.fireChannelRead(wrapInboundOut(.head(request)))
    if awaitsContinue, !isResponseStarted, !dropsInput {
      context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
    }
  }

  private func checked(_ head: HTTPRequest, _ channel: any Channel) throws(Problem) -> HTTPRequest {
    let size = head.headerFields.reduce(head.path?.utf8.count ?? 0) {
      $0 + $1.name.rawName.utf8.count + $1.value.utf8.count
    }
    guard size <= limits.headBytes, head.headerFields.count <= limits.headFields else { throw .headTooLarge(limits) }
    let target = try RequestTarget(head)
    let lengths = head.headerFields[fields: .contentLength]
    guard lengths.count < 2,
      lengths.allSatisfy({ !$0.value.isEmpty && $0.value.utf8.allSatisfy { (48...57).contains($0) } })
    else {
      throw .badRequest("Content-Length is one number.")
    }
    guard head.headerFields[fields: .expect].allSatisfy({ $0.value.lowercased() == "100-continue" }) else {
      throw .expectationFailed
    }
    let mayHaveBody = head.method != .get && head.method != .head
    if let problem = limits.problem(with: head, mayHaveBody: mayHaveBody, from: channel, checkHead) { throw problem }
    return HTTPRequest(
      method: head.method, scheme: "http", authority: target.authority, path: target.path,
      headerFields: head.headerFields)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    if reading == .body, !dropsInput {
      if deadlines.input == nil {
        deadlines.setInput(TimeAmount(limits.bodyTime), on: context.eventLoop) { [self] in timerFired(context) }
      }
      incoming.holdBody(of: entry, in: table)
    }
    context.fireChannelReadComplete()
  }

  /// Answers with a problem. ``HTTPServerHandler`` writes it.
  private func refuse(_ problem: Problem, _ context: ChannelHandlerContext) {
    dropsInput = true
    metrics?.countRefusal(status: problem.status.code)
    deadlines.removeInput()
    incoming.release(of: entry, in: table)
    context.fireErrorCaught(problem)
  }

  // MARK: - The response

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard !isReset else {
      promise?.fail(ChannelError.ioOnClosedChannel)
      return
    }
    switch unwrapOutboundIn(data) {
    case .head(var head):
      if head.status.kind != .informational { isResponseStarted = true }
      // HTTP/2 has none (RFC 9113, 8.2.2): the stream ends with the response in any case.
      head.headerFields[.connection] = nil
      context.write(wrapOutboundOut(.head(head)), promise: promise)
    case .body where isToHead: promise?.succeed()
    case .body(let buffer):
      let written = promise ?? context.eventLoop.makePromise()
      let count = buffer.readableBytes
      unreadBytes += count
      written.futureResult.assumeIsolated().whenComplete { [self] _ in taken(count) }
      context.write(data, promise: written)
    case .end:
      let written = promise ?? context.eventLoop.makePromise()
      written.futureResult.assumeIsolated().whenSuccess { [self] in endRequest(context) }
      completeResponse()
      dropsInput = true
      entry?.startsWaiting()
      context.write(data, promise: written)
    }
  }

  /// The response is complete. A client that is still sending its request need not go on (RFC 9113, 8.1).
  private func endRequest(_ context: ChannelHandlerContext) {
    if reading != .nothing { reset(.noError, context) }
  }

  func flush(context: ChannelHandlerContext) {
    context.flush()
    guard unreadBytes > 0, let entry, !isReset else { return }
    if deadlines.output == nil {
      deadlines.setOutput(TimeAmount(limits.writeTime), on: context.eventLoop) { [self] in timerFired(context) }
    }
    table.unread.set(unreadBytes, of: entry)
  }

  /// The socket has taken a part of the response, or the stream has ended.
  private func taken(_ byteCount: Int) {
    unreadBytes -= byteCount
    guard unreadBytes == 0, let entry else { return }
    deadlines.removeOutput()
    table.unread.set(0, of: entry)
  }

  /// A stream has no sides to close: it ends with the last part of its response.
  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    guard mode == .all else {
      promise?.succeed()
      return
    }
    context.close(mode: mode, promise: promise)
  }

  private func timerFired(_ context: ChannelHandlerContext) {
    switch deadlines.timerFired(on: context.eventLoop, onTimer: { [self] in timerFired(context) }) {
    // The client has not read for as long as it may.
    case .output: reset(.cancel, context)
    case .input: refuse(.tooSlow, context)
    case nil: break
    }
  }
}
