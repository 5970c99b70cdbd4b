import HTTPTypes
import Hummingbird
import NIOCore
import NIOHTTPTypes

/// Writes a response's parts from its task, on the connection's loop.
struct ResponsePartWriter<Responder: HTTPResponder>: Sendable
where Responder.Context: RequestContext, Responder.Context.Source == ApplicationRequestContextSource {
  private let bound: NIOLoopBound<(HTTPServerHandler<Responder>, ChannelHandlerContext)>
  private let channel: any Channel

  init(_ bound: NIOLoopBound<(HTTPServerHandler<Responder>, ChannelHandlerContext)>, _ channel: any Channel) {
    self.bound = bound
    self.channel = channel
  }

  func write(_ response: Response) async throws {
    var head = response.head
    head.headerFields[.date] = HTTPDate.now()
    let writer = BodyWriter(parts: self, head: head, length: response.body.contentLength)
    try await response.body.write(writer)
  }

  /// - Throws: when the connection is closed.
  func send(_ parts: [HTTPResponsePart]) async throws {
    let loop = channel.eventLoop
    if loop.inEventLoop {
      // A small response ends here: no task waits until its last part is written.
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

/// Buffers the head and a body of known length until both are complete, so that a response is one write.
private struct BodyWriter<Responder: HTTPResponder>: ResponseBodyWriter
where Responder.Context: RequestContext, Responder.Context.Source == ApplicationRequestContextSource {
  let parts: ResponsePartWriter<Responder>
  private var buffered: [HTTPResponsePart]
  private var isBuffering: Bool

  init(parts: ResponsePartWriter<Responder>, head: HTTPResponse, length: Int?) {
    self.parts = parts
    buffered = [.head(head)]
    isBuffering = length.map { $0 <= 1 << 20 } ?? false
  }

  mutating func write(_ buffer: ByteBuffer) async throws {
    buffered.append(.body(buffer))
    guard !isBuffering else { return }
    let ready = buffered
    buffered = []
    try await parts.send(ready)
  }

  consuming func finish(_ trailers: HTTPFields?) async throws {
    buffered.append(.end(trailers))
    try await parts.send(buffered)
  }
}
