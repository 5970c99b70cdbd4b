import NIOCore

/// Stands below the HTTP/2 codec, and sees the frames of a connection as they come and go. Used on the connection's event loop only.
final class FrameEdge: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer
  typealias OutboundIn = IOData
  typealias OutboundOut = IOData

  /// "PRI * HTTP/2.0" and what belongs to it (RFC 9113, 3.4).
  private static let prefaceBytes = 24

  /// For the channel of a connection: it is writable while few bytes wait in memory for the client, and again once none do.
  static let waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 1, high: 16 << 10)
  /// The last-stream-id of a GOAWAY that says nothing of what was processed: all of it may have been (RFC 9113, 6.8).
  private static let anyStream = UInt32(Int32.max)

  private let connection: HTTP2Connection
  private var incoming = FrameReader(prefaceBytes: prefaceBytes)
  private var outgoing = FrameReader()
  private var allowance = FrameAllowance()
  /// Bytes written since the socket had last taken all.
  private var unreadBytes = 0

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
    guard case .byteBuffer(var bytes) = unwrapOutboundIn(data) else { return context.write(data, promise: promise) }
    var isGoAway = false
    outgoing.read(bytes) { kind in
      allowance.sent()
      isGoAway = isGoAway || kind == FrameReader.Kind.goAway
    }
    unreadBytes += bytes.readableBytes
    if isGoAway, !connection.isSendingGoAway { Self.claimNothing(&bytes) }
    context.write(wrapOutboundOut(.byteBuffer(bytes)), promise: promise)
    if isGoAway { connection.sentGoAway() }
  }

  /// Of a client that floods, the codec says that nothing was processed. Its requests may have been, and clients repeat what was not.
  private static func claimNothing(_ goAway: inout ByteBuffer) {
    let stream = goAway.readerIndex + FrameReader.headerBytes
    guard goAway.getInteger(at: stream, as: UInt32.self) == 0 else { return }
    goAway.setInteger(anyStream, at: stream)
  }

  func flush(context: ChannelHandlerContext) {
    context.flush()
    // Only now is it known what the socket has taken.
    if context.channel.isWritable {
      unreadBytes = 0
    } else if context.channel.isActive {
      connection.holdUnread(unreadBytes)
    }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      unreadBytes = 0
      connection.holdUnread(0)
    }
    context.fireChannelWritabilityChanged()
  }
}
