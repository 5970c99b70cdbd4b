import NIOCore

/// Stands below the HTTP/2 codec, and sees the frames of a connection as they come and go. Used on the connection's event loop only.
final class FrameEdge: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer
  typealias OutboundIn = IOData
  typealias OutboundOut = IOData

  /// "PRI * HTTP/2.0" and what belongs to it (RFC 9113, 3.4).
  private static let prefaceBytes = 24

  private let connection: HTTP2Connection
  private var incoming = FrameReader(prefaceBytes: prefaceBytes)
  private var outgoing = FrameReader()
  private var allowance = FrameAllowance()

  init(_ connection: HTTP2Connection) { self.connection = connection }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !connection.dropsInput else { return }
    var frames = 0
    incoming.read(unwrapInboundIn(data)) { kind in
      if kind != FrameReader.Kind.headers { frames += 1 }
    }
    guard allowance.received(frames, now: context.eventLoop.now) else { return connection.end(.enhanceYourCalm) }
    connection.received(unfinishedBytes: incoming.unfinishedBytes, isUnfinished: incoming.isUnfinished)
    // Above a limit that ends this connection.
    guard !connection.dropsInput else { return }
    context.fireChannelRead(data)
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    var isGoAway = false
    if case .byteBuffer(let bytes) = unwrapOutboundIn(data) {
      outgoing.read(bytes) { kind in
        allowance.sent()
        isGoAway = isGoAway || kind == FrameReader.Kind.goAway
      }
    }
    context.write(data, promise: promise)
    if isGoAway { connection.sentGoAway() }
  }
}
