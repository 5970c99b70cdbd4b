import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTP1
import NIOHTTPTypesHTTP1
import ServiceLifecycle

/// A connection of the server: HTTP/1.1, one request after another, each with its whole body before it is looked at.
///
/// Hummingbird's own channel hands every part of a message from one task to another, for bodies of any length. Ours are
/// small, and a payment is four requests: one task a request, on the connection's own event loop, costs half
/// (docs/PERFORMANCE.md).
struct ExchangeChannel<Answerer: HTTPResponder>: ServerChildChannel
where Answerer.Context == ExchangeContext {
  struct Value: ServerChildChannelValue {
    let channel: any Channel
    fileprivate let handler: NIOLoopBound<ExchangeHandler<Answerer>>
  }

  let responder: Answerer
  let limits: ExchangeLimits
  let logger: Logger

  func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
    channel.eventLoop.makeCompletedFuture {
      try channel.syncOptions?.setOption(.recvAllocator, value: ExchangeLimits.reads)
      var decoderLimits = NIOHTTPDecoderLimitConfiguration()
      decoderLimits.maxHeaderFieldSize = limits.headByteCount
      decoderLimits.maxHeaderListSize = limits.headByteCount
      decoderLimits.maxHeaderFieldCount = limits.fieldCount
      let pipeline = channel.pipeline.syncOperations
      try pipeline.configureHTTPServerPipeline(
        withPipeliningAssistance: true, withErrorHandling: true,
        // The types that responses are made of allow no line breaks.
        withOutboundHeaderValidation: false, withEncoderConfiguration: .init(),
        withDecoderLimitConfiguration: decoderLimits)
      try pipeline.addHandler(HTTP1ToHTTPServerCodec(secure: false))
      let handler = ExchangeHandler(responder: responder, limits: limits, logger: self.logger)
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

/// What one connection may take up.
struct ExchangeLimits: Sendable {
  /// How much is read at once: requests and answers are short, and the allocator has short buffers at hand.
  static let reads = AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 64 << 10)

  /// Bytes of a body. It is held in memory until its request is answered.
  var bodyByteCount = 64 << 10
  /// Bytes of a request's fields.
  var headByteCount = 16 << 10
  var fieldCount = 100
  /// How long a connection may be without a request.
  var idleTime = TimeAmount.seconds(75)
  /// How long a refused client may go on sending before the connection is cut.
  var lingerTime = TimeAmount.seconds(2)
}
