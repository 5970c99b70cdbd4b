import NIOCore

/// The end of a connection's pipeline: puts what arrives into the inbox, and cares for heartbeats.
///
/// Lives on its connection's event loop.
final class AMQPHandler: ChannelDuplexHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// Sent down the pipeline when the log-in has agreed on an interval.
  struct Heartbeats: Sendable {
    var interval: TimeAmount
  }

  private let inbox: AMQPInbox
  private let host: String
  private var interval: TimeAmount?
  private var timer: Scheduled<Void>?
  private var hasSent = false
  private var lastArrival = NIODeadline.now()

  init(_ inbox: AMQPInbox, host: String) { (self.inbox, self.host) = (inbox, host) }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    lastArrival = context.eventLoop.now
    guard inbox.add(unwrapInboundIn(data)) else { return }
    setAutoRead(false, context)
  }

  private func setAutoRead(_ isOn: Bool, _ context: ChannelHandlerContext) {
    // Fails only when the connection has ended; channelInactive(context:) reports that.
    try? context.channel.syncOptions?.setOption(.autoRead, value: isOn)
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    hasSent = true
    context.write(data, promise: promise)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    inbox.end(AMQPFailure(reason: AMQPTransport.reason(error, host: host)))
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) {
    timer?.cancel()
    inbox.end(AMQPFailure(reason: "it has closed the connection"))
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    timer?.cancel()
    inbox.end(AMQPFailure(reason: "the connection is closed"))
  }

  // MARK: - Heartbeats

  func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
    guard let heartbeats = event as? Heartbeats else {
      return context.triggerUserOutboundEvent(event, promise: promise)
    }
    promise?.succeed()
    interval = heartbeats.interval
    lastArrival = context.eventLoop.now
    schedule(context)
  }

  private func schedule(_ context: ChannelHandlerContext) {
    guard let interval, context.channel.isActive else { return }
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    timer = context.eventLoop.scheduleTask(in: .nanoseconds(interval.nanoseconds / 2)) {
      let (handler, context) = bound.value
      handler.tick(context, interval)
    }
  }

  /// AMQP 0-9-1, 4.2.7: any byte counts as a heartbeat, and the peer is gone after two intervals without one.
  private func tick(_ context: ChannelHandlerContext, _ interval: TimeAmount) {
    let now = context.eventLoop.now
    // Nothing is read meanwhile.
    if inbox.isPaused { lastArrival = now }
    guard now - lastArrival < .nanoseconds(2 * interval.nanoseconds) else {
      inbox.end(AMQPFailure(reason: "it has sent no heartbeat for \(2 * interval.nanoseconds / 1_000_000_000) seconds"))
      return context.close(promise: nil)
    }
    // A peer that reads nothing gets no more of them than fit.
    if !hasSent, context.channel.isWritable {
      var frame = context.channel.allocator.buffer(capacity: AMQPFrameDecoder.overhead)
      frame.writeHeartbeat()
      context.writeAndFlush(wrapOutboundOut(frame), promise: nil)
    }
    hasSent = false
    schedule(context)
  }
}
