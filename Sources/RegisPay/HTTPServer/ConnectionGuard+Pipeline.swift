import NIOCore
import NIOHTTP1

extension ConnectionGuard {
  /// Adds the HTTP/1 server's handlers, with this one as the last.
  func addHandlers(to pipeline: ChannelPipeline.SynchronousOperations) throws {
    var decoderLimits = NIOHTTPDecoderLimitConfiguration()
    decoderLimits.maxHeaderFieldSize = limits.headBytes
    decoderLimits.maxHeaderListSize = limits.headBytes
    decoderLimits.maxHeaderFieldCount = limits.headFields
    try pipeline.addHandler(SocketEdge(self))
    try pipeline.configureHTTPServerPipeline(
      withPipeliningAssistance: false,
      // The guard responds to errors with problems, and the handler processes one request after another.
      withErrorHandling: false,
      // The types that responses consist of allow no line breaks.
      withOutboundHeaderValidation: false, withEncoderConfiguration: .init(),
      withDecoderLimitConfiguration: decoderLimits)
    try pipeline.addHandler(RequestCodec())
    try pipeline.addHandler(self)
  }
}
