import NIOCore
import NIOSSL
import NIOTLS

/// Stands on TLS: admits a connection, adds the handlers of the version of HTTP that the client has chosen once TLS is made, and closes a
/// connection whose handshake takes too long or whose TLS fails. Used on the connection's event loop only.
final class TLSEdge: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer

  /// The name of HTTP/2 in a handshake (RFC 9113, 3.1).
  static let http2 = "h2"

  private let limit: TimeAmount
  private let table: ConnectionTable
  private let addHandlers: (ConnectionTable.Connection, _ isHTTP2: Bool) throws -> Void
  private var timer: Scheduled<Void>?
  private var connection: ConnectionTable.Connection?

  /// - Parameters:
  ///   - limit: for the handshake.
  ///   - addHandlers: adds the handlers above this one, for a connection that the table has admitted.
  init(
    handshakeTime limit: TimeAmount, table: ConnectionTable,
    addHandlers: @escaping (ConnectionTable.Connection, _ isHTTP2: Bool) throws -> Void
  ) {
    self.limit = limit
    self.table = table
    self.addHandlers = addHandlers
  }

  func channelActive(context: ChannelHandlerContext) {
    let channel = context.channel
    let connection = ConnectionTable.Connection(channel, proxies: table.proxies)
    self.connection = connection
    if table.admit(connection) {
      // Without the handshake there is no TLS to end first.
      timer = context.eventLoop.scheduleTask(in: limit) { channel.cutOff() }
    } else {
      channel.cutOff()
    }
    context.fireChannelActive()
  }

  func handlerRemoved(context: ChannelHandlerContext) { cleanUp() }

  func channelInactive(context: ChannelHandlerContext) {
    cleanUp()
    context.fireChannelInactive()
  }

  private func cleanUp() {
    timer?.cancel()
    if let connection { table.remove(connection) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    switch error {
    // There is no way to tell the client anything.
    case is NIOSSLError, is BoringSSLError, is NIOSSLExtraError, is NIOSSLCloseTimedOutError:
      context.close(promise: nil)
    default: context.fireErrorCaught(error)
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .handshakeCompleted(let version)? = event as? TLSUserEvent, let connection {
      timer?.cancel()
      do {
        try addHandlers(connection, version == Self.http2)
      } catch {
        // Only a pipeline that is closed takes no handlers.
        context.close(promise: nil)
      }
    }
    context.fireUserInboundEventTriggered(event)
  }
}
