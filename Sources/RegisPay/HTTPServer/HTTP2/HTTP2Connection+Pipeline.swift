import Hummingbird
import NIOCore
import NIOHTTP2
import NIOHTTPTypesHTTP2

extension HTTP2Connection {
  /// Adds the HTTP/2 server's handlers to a connection, with this one as the last, and to each of its streams.
  ///
  /// - Parameters:
  ///   - streams: the open streams of all connections.
  ///   - checkHead: is asked for each request that may have a body, before the body is kept.
  ///   - metrics: counts what is refused.
  ///   - makeHandler: makes what gets a stream's request.
  func addHandlers<Responder: HTTPResponder>(
    to channel: any Channel, streams: ConnectionTable, checkHead: HeadCheck?, metrics: HTTPMetrics?,
    makeHandler: @escaping @Sendable () -> HTTPServerHandler<Responder>
  ) throws {
    let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
    let codec = NIOHTTP2Handler(
      mode: .server, eventLoop: channel.eventLoop, connectionConfiguration: HTTP2Limits.connection(),
      streamConfiguration: HTTP2Limits.stream()
    ) { stream in
      stream.eventLoop.makeCompletedFuture {
        let handler = makeHandler()
        let guardHandler = StreamGuard(
          bound.value, streams: streams, checkHead: checkHead, metrics: metrics, onStop: { handler.stop() })
        try stream.pipeline.syncOperations.addHandlers(HTTP2FramePayloadToHTTPServerCodec(), guardHandler, handler)
      }
    }
    try channel.pipeline.syncOperations.addHandlers(FrameEdge(self), codec, self)
  }
}
