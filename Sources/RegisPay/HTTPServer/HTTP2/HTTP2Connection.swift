import Logging
import NIOCore
import NIOHTTP2

/// One HTTP/2 connection: which streams it may have, and when it ends. What is one request's business, ``StreamGuard`` does.
///
/// It stands on the HTTP/2 codec. Used on the connection's event loop only.
final class HTTP2Connection: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = HTTP2Frame
  typealias OutboundOut = HTTP2Frame

  private enum Phase {
    case serving
    /// The server stops. The connection ends as soon as no stream is open, or soon in any case.
    case stopping
    /// The client has been told which streams are served. The connection ends with the last of them.
    case ending
    /// The client has been told of its mistake. What it still sends is dropped.
    case ended
  }

  /// How long requests may still be made on a busy connection when the server stops, and how long the last frames may take.
  private static let drainTime = TimeAmount.milliseconds(250)

  let limits: HTTPLimits
  let table: ConnectionTable
  private let entry: ConnectionTable.Connection
  private let logger: Logger
  private var context: ChannelHandlerContext?
  private var phase = Phase.serving
  private var streams: [ObjectIdentifier: () -> Void] = [:]
  private var lastStream = HTTP2StreamID.rootStream
  /// Streams whose request is complete and whose response is not.
  private var pendingResponses = 0
  private var isCounted = false
  private var isInputClosed = false
  /// A GOAWAY frame that is being written is this connection's own.
  private(set) var isSendingGoAway = false
  private var heldHeadBytes = 0
  private var deadlines = ConnectionDeadlines()
  private var idleTimer: Scheduled<Void>?

  /// - Parameter entry: what the table has admitted.
  init(limits: HTTPLimits, table: ConnectionTable, entry: ConnectionTable.Connection, logger: Logger) {
    self.limits = limits
    self.table = table
    self.entry = entry
    self.logger = logger
  }

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    startIdleTimer()
    // For what a client says first.
    setHeadDeadline()
  }

  func channelInactive(context: ChannelHandlerContext) {
    cleanUp()
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    cleanUp()
    self.context = nil
  }

  private func cleanUp() {
    phase = .ended
    holdHead(0)
    table.unread.set(0, of: entry)
    deadlines.cancel()
    idleTimer?.cancel()
    idleTimer = nil
    table.remove(entry)
  }

  /// Frames of the connection itself; the codec has acted on them.
  func channelRead(context: ChannelHandlerContext, data: NIOAny) {}

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    logger.debug("HTTP/2 connection", metadata: ["error": "\(error)"])
    // Others are the codec's: it has reset the stream, or said why the connection ends (``sentGoAway()``).
    if error is ChannelError || error is IOError { context.close(promise: nil) }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    switch event {
    // Heads that are not complete use all the memory that they may, and this one is the oldest.
    case HeldBytes.Refused.head: if heldHeadBytes > 0 { end(.enhanceYourCalm) }
    case ChannelEvent.inputClosed:
      // The client sends nothing more; it may still read its responses, but for those without an end.
      isInputClosed = true
      for stop in Array(streams.values) { stop() }
      closeOnceEmpty()
    default: break
    }
    context.fireUserInboundEventTriggered(event)
  }

  // MARK: - Frames

  /// Nothing that arrives is read any more.
  var dropsInput: Bool { phase == .ended }

  /// ``FrameEdge`` reports what has arrived and is not complete.
  func received(unfinishedBytes: Int, isUnfinished: Bool) {
    holdHead(unfinishedBytes)
    if !isUnfinished {
      deadlines.removeInput()
    } else if deadlines.input == nil {
      setHeadDeadline()
    }
  }

  private func holdHead(_ byteCount: Int) {
    let held = byteCount == 0 ? 0 : byteCount.nextPowerOfTwo
    guard held != heldHeadBytes else { return }
    heldHeadBytes = held
    table.unfinishedHeads.set(held, of: entry)
  }

  private func setHeadDeadline() {
    guard let context else { return }
    deadlines.setInput(TimeAmount(limits.headTime), on: context.eventLoop) { [self] in timerFired() }
  }

  private func timerFired() {
    guard let context else { return }
    switch deadlines.timerFired(on: context.eventLoop, onTimer: { [self] in timerFired() }) {
    // Nothing can be said to a client that reads nothing. What its streams have written is freed with the connection alone.
    case .output: context.channel.cutOff()
    case .input: end(.enhanceYourCalm)
    case nil: break
    }
  }

  /// ``FrameEdge`` reports what waits in memory because the client does not read; 0 when all has left.
  func holdUnread(_ byteCount: Int) {
    guard let context else { return }
    if byteCount == 0 {
      deadlines.removeOutput()
    } else if deadlines.output == nil {
      deadlines.setOutput(TimeAmount(limits.writeTime), on: context.eventLoop) { [self] in timerFired() }
    }
    // Above the limit that ends a connection, perhaps this one.
    table.unread.set(byteCount, of: entry)
  }

  // MARK: - Streams

  /// Takes a new stream.
  ///
  /// - Parameter stop: tells the stream that the server stops.
  /// - Returns: false when it must be refused.
  func open(_ stream: ObjectIdentifier, _ id: HTTP2StreamID, stop: @escaping () -> Void) -> Bool {
    // The first one shows that the client speaks HTTP. The server's own calls come without TLS.
    if !isCounted {
      isCounted = true
      if entry.isLocal, !table.count(entry) {
        phase = .ended
        context?.channel.cutOff()
      }
    }
    switch phase {
    case .serving, .stopping: break
    case .ending, .ended: return false
    }
    lastStream = max(lastStream, id)
    streams[stream] = stop
    idleTimer?.cancel()
    idleTimer = nil
    if phase == .stopping { stop() }
    return true
  }

  func close(_ stream: ObjectIdentifier) {
    guard streams.removeValue(forKey: stream) != nil, streams.isEmpty else { return }
    switch phase {
    case _ where isInputClosed: closeOnceEmpty()
    case .serving: startIdleTimer()
    case .stopping: finish()
    case .ending: closeOnceEmpty()
    case .ended: break
    }
  }

  /// A stream's request is complete: the client waits for the server.
  func completedRequest() {
    pendingResponses += 1
    if pendingResponses == 1 { entry.stopsWaiting() }
  }

  /// The response to a complete request is written, or its stream has ended.
  func completedResponse() {
    pendingResponses -= 1
    if pendingResponses == 0 { entry.startsWaiting() }
  }

  // MARK: - Ending

  private func startIdleTimer() {
    guard let context else { return }
    idleTimer = context.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(limits.idleTime)) { [self] in finish() }
  }

  /// Called when the server stops. The connection ends with a GOAWAY frame, which names the last request that the server has taken: the
  /// client can make later ones again (RFC 9113, 6.8). The frame is sent once no response is pending, because some clients drop pending
  /// responses when they get it.
  func stop() {
    guard phase == .serving, let context else { return }
    guard !streams.isEmpty else { return finish() }
    phase = .stopping
    for stop in Array(streams.values) { stop() }
    context.eventLoop.assumeIsolated().scheduleTask(in: Self.drainTime) { [self] in finish() }
  }

  /// Serves no stream but those that are open.
  private func finish() {
    guard phase == .serving || phase == .stopping else { return }
    phase = .ending
    sendGoAway(lastStream: lastStream, .noError)
    closeOnceEmpty()
  }

  private func closeOnceEmpty() {
    guard streams.isEmpty, phase != .ended, let context else { return }
    phase = .ended
    // After the frames that this very turn of the loop still writes.
    context.eventLoop.assumeIsolated().execute { [channel = context.channel] in channel.close(within: Self.drainTime) }
  }

  /// Ends the connection for its client's mistake.
  func end(_ code: HTTP2ErrorCode) {
    guard phase != .ended else { return }
    phase = .ended
    sendGoAway(lastStream: lastStream, code)
    context?.channel.close(within: Self.drainTime)
  }

  private func sendGoAway(lastStream: HTTP2StreamID, _ code: HTTP2ErrorCode) {
    guard let context else { return }
    let frame = HTTP2Frame(
      streamID: .rootStream, payload: .goAway(lastStreamID: lastStream, errorCode: code, opaqueData: nil))
    isSendingGoAway = true
    defer { isSendingGoAway = false }
    context.writeAndFlush(wrapOutboundOut(frame), promise: nil)
  }

  /// Called by ``FrameEdge`` for each GOAWAY frame. One that this connection has not written comes from the codec: the client has broken
  /// the protocol, and the connection ends.
  func sentGoAway() {
    guard !isSendingGoAway, phase != .ended, let context else { return }
    phase = .ended
    // After the frame has been flushed.
    context.eventLoop.assumeIsolated().execute { [channel = context.channel] in channel.close(within: Self.drainTime) }
  }
}
