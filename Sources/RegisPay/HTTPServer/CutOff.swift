import NIOCore

/// An outbound event that closes a connection at once, below TLS: without TLS's own end, for which a client would be waited for.
enum CutOff {
  case event
}

/// Stands below TLS, next to the socket.
final class CutOffHandler: ChannelOutboundHandler {
  typealias OutboundIn = Never

  func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
    guard event is CutOff else { return context.triggerUserOutboundEvent(event, promise: promise) }
    context.close(promise: promise)
  }
}

extension Channel {
  /// Closes a connection that must not last a moment longer, such as one that gives its descriptor to another client. May be called
  /// from any thread.
  func cutOff() {
    let promise = eventLoop.makePromise(of: Void.self)
    // Nobody takes the event without TLS.
    promise.futureResult.whenFailure { _ in self.close(promise: nil) }
    triggerUserOutboundEvent(CutOff.event, promise: promise)
  }

  /// Closes a connection, and waits for the end of TLS no longer than some time.
  func close(within limit: TimeAmount) {
    close(promise: nil)
    let timer = eventLoop.scheduleTask(in: limit) { self.cutOff() }
    closeFuture.whenComplete { _ in timer.cancel() }
  }
}
