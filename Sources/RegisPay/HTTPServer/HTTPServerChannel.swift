import Hummingbird
import Logging
import NIOCore
import ServiceLifecycle

/// A server connection: HTTP/1.1, one request after another, each with its complete body before a route sees it.
///
/// Hummingbird's own channel passes every part of a message between tasks, for bodies of any length. RegisPay's bodies are
/// small, and a payment is four requests: one task a request, on the connection's own event loop, costs far less
/// (docs/PERFORMANCE.md, *A payment's processor time*).
struct HTTPServerChannel<Responder: HTTPResponder>: Sendable
where Responder.Context == HTTPRequestContext {
  struct Value: Sendable {
    let channel: any Channel
    fileprivate let handler: NIOLoopBound<HTTPServerHandler<Responder>>
  }

  let responder: Responder
  let limits: HTTPLimits
  let table: ConnectionTable
  let internalToken: InternalToken
  /// nil: all bodies are read.
  let checkHead: HeadCheck?
  let metrics: HTTPMetrics
  /// Nil for a listener without TLS.
  var tls: ServerTLS?
  let logger: Logger

  func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
    channel.eventLoop.makeCompletedFuture {
      try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forRequests)
      try channel.syncOptions?.setOption(.writeBufferWaterMark, value: SocketEdge.waterMark)
      try channel.syncOptions?.setOption(.socketOption(.so_sndbuf), value: SocketEdge.sendBufferBytes)
      let pipeline = channel.pipeline.syncOperations
      try tls?.addHandlers(to: pipeline, handshakeTime: TimeAmount(limits.headTime))
      let guardHandler = ConnectionGuard(
        limits: limits, table: table, internalToken: internalToken, metrics: metrics, checkHead: checkHead)
      try guardHandler.addHandlers(to: pipeline)
      let handler = HTTPServerHandler(
        responder: responder, idleTime: TimeAmount(limits.idleTime), metrics: metrics, logger: self.logger)
      try pipeline.addHandler(handler)
      return Value(channel: channel, handler: NIOLoopBound(handler, eventLoop: channel.eventLoop))
    }
  }

  func handle(value: Value, logger: Logger) async {
    await withTaskCancellationHandler {
      await withGracefulShutdownHandler {
        // The handler that met an error has dealt with it.
        try? await value.channel.closeFuture.get()
      } onGracefulShutdown: {
        value.channel.eventLoop.execute { value.handler.value.stop() }
      }
    } onCancel: {
      value.channel.cutOff()
    }
  }
}
