import NIOCore

/// The lowest handler of a connection, next to its socket: it knows what the socket has not taken yet.
///
/// `channelWritabilityChanged` reaches the handlers above only when a response waits for its client and when all of it has
/// left. ``waterMark`` makes both visible: a channel is writable while no byte waits.
final class SocketEdge: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer
  typealias OutboundIn = IOData
  typealias OutboundOut = IOData

  /// For the channel of a connection. With a higher mark, a client that reads nothing would leave that many bytes in memory, on
  /// each connection, without a deadline.
  static let waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 1, high: 1)

  /// The size of a socket's send buffer in bytes, the kernel's own structures included. By default the kernel lets it grow to
  /// 4 MiB: some sixty large responses that a client may never read, in memory that no other limit counts.
  static let sendBufferBytes = 128 << 10

  private let connection: ConnectionGuard
  /// Bytes written since the socket had last taken all. The memory of a response is held until its last byte has left.
  private var byteCount = 0
  private var isUnread = false

  init(_ connection: ConnectionGuard) { self.connection = connection }

  /// Drops what follows the last request before the decoder receives it: the decoder would buffer in memory all that follows a
  /// CONNECT or an upgrade.
  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !connection.dropsInput else { return }
    connection.received(unwrapInboundIn(data).readableBytes)
    context.fireChannelRead(data)
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    byteCount += unwrapOutboundIn(data).readableBytes
    context.write(data, promise: promise)
  }

  func flush(context: ChannelHandlerContext) {
    context.flush()
    guard byteCount > 0 else { return }
    // A closed channel has dropped what it had.
    guard context.channel.isActive, !context.channel.isWritable else {
      byteCount = 0
      return
    }
    connection.holdUnread(byteCount)
    // Above the limit that closes a connection, perhaps this one.
    guard !isUnread, context.channel.isActive else { return }
    isUnread = true
    context.fireChannelWritabilityChanged()
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    // The channel says so for every response, between its write and its flush.
    guard isUnread, context.channel.isWritable else { return }
    isUnread = false
    byteCount = 0
    connection.holdUnread(0)
    context.fireChannelWritabilityChanged()
  }
}
