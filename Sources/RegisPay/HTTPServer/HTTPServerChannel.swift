import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import ServiceLifecycle

/// A connection of the server: HTTP/1.1, one request after another, each with its whole body before it is looked at.
///
/// Hummingbird's own channel hands every part of a message from one task to another, for bodies of any length. Ours are
/// small, and a payment is four requests: one task a request, on the connection's own event loop, costs far less
/// (docs/PERFORMANCE.md, *A payment's processor time*).
struct HTTPServerChannel<Answerer: HTTPResponder>: ServerChildChannel
where Answerer.Context == HTTPRequestContext {
  struct Value: ServerChildChannelValue {
    let channel: any Channel
    fileprivate let handler: NIOLoopBound<HTTPServerHandler<Answerer>>
  }

  let responder: Answerer
  let limits: HTTPLimits
  let table: ConnectionTable
  let own: InternalToken
  let logger: Logger

  func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
    channel.eventLoop.makeCompletedFuture {
      try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forMessages)
      let pipeline = channel.pipeline.syncOperations
      try ConnectionGuard(limits: limits, table: table, own: own).addHandlers(to: pipeline)
      let handler = HTTPServerHandler(responder: responder, idleTime: TimeAmount(limits.idleTime), logger: self.logger)
      try pipeline.addHandler(handler)
      return Value(channel: channel, handler: NIOLoopBound(handler, eventLoop: channel.eventLoop))
    }
  }

  func handle(value: Value, logger: Logger) async {
    await withTaskCancellationHandler {
      await withGracefulShutdownHandler {
        // An error that closed it was dealt with where it happened.
        try? await value.channel.closeFuture.get()
      } onGracefulShutdown: {
        value.channel.eventLoop.execute { value.handler.value.stop() }
      }
    } onCancel: {
      value.channel.close(promise: nil)
    }
  }
}
