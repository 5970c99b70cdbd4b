import Hummingbird
import Logging
import NIOCore

/// A server connection: HTTP/1.1, one request after another, or HTTP/2 if TLS's handshake has chosen it, one request a stream; each
/// request with its complete body before a route sees it.
///
/// Hummingbird's own channel passes every part of a message between tasks, for bodies of any length. RegisPay's bodies are
/// small, and a payment is four requests: one task a request, on the connection's own event loop, costs far less
/// (docs/PERFORMANCE.md, *A payment's processor time*).
struct HTTPServerChannel<Responder: HTTPResponder>: Sendable
where Responder.Context == HTTPRequestContext {
  private let responder: Responder
  private let limits: HTTPLimits
  private let table: ConnectionTable
  private let internalToken: InternalToken
  private let checkHead: HeadCheck?
  private let metrics: HTTPMetrics
  private let tls: ServerTLS?
  private let logger: Logger
  /// The open streams of HTTP/2's connections: at most as many as connections, which have one request each in HTTP/1.
  let streams: ConnectionTable

  /// - Parameters:
  ///   - checkHead: nil if all bodies are read.
  ///   - tls: nil for a listener without TLS.
  init(
    responder: Responder, limits: HTTPLimits, table: ConnectionTable, internalToken: InternalToken,
    checkHead: HeadCheck?,
    metrics: HTTPMetrics, tls: ServerTLS? = nil, logger: Logger
  ) {
    self.responder = responder
    self.limits = limits
    self.table = table
    self.internalToken = internalToken
    self.checkHead = checkHead
    self.metrics = metrics
    self.tls = tls
    self.logger = logger
    streams = ConnectionTable(limit: table.limit, limitPerAddress: nil, proxies: table.proxies)
  }

  /// Adds the handlers of a new connection. Called on its event loop.
  ///
  /// - Returns: what tells it that the server stops.
  func setUp(_ channel: any Channel) throws -> ConnectionStop {
    try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forRequests)
    try channel.syncOptions?.setOption(.socketOption(.so_sndbuf), value: SocketEdge.sendBufferBytes)
    let stop = ConnectionStop(channel)
    if let tls {
      let edge = TLSEdge(handshakeTime: TimeAmount(limits.headTime), table: table) { connection, isHTTP2 in
        if isHTTP2 {
          try addHTTP2(to: channel, connection, stop)
        } else {
          try addHTTP1(to: channel, connection, stop)
        }
      }
      try tls.addHandlers(to: channel.pipeline.syncOperations, edge)
    } else {
      try addHTTP1(to: channel, nil, stop)
    }
    return stop
  }

  private func addHTTP1(
    to channel: any Channel, _ connection: ConnectionTable.Connection?, _ stop: ConnectionStop
  ) throws {
    try channel.syncOptions?.setOption(.writeBufferWaterMark, value: SocketEdge.waterMark)
    let pipeline = channel.pipeline.syncOperations
    let guardHandler = ConnectionGuard(
      limits: limits, table: table, internalToken: internalToken, metrics: metrics, checkHead: checkHead,
      connection: connection)
    try guardHandler.addHandlers(to: pipeline)
    let handler = makeHandler()
    try pipeline.addHandler(handler)
    stop.action = { handler.stop() }
  }

  private func addHTTP2(
    to channel: any Channel, _ entry: ConnectionTable.Connection, _ stop: ConnectionStop
  ) throws {
    try channel.syncOptions?.setOption(.writeBufferWaterMark, value: FrameEdge.waterMark)
    let connection = HTTP2Connection(limits: limits, table: table, entry: entry, logger: logger)
    try connection.addHandlers(
      to: channel, streams: streams, checkHead: checkHead, metrics: metrics, makeHandler: { makeHandler() })
    stop.action = { connection.stop() }
  }

  private func makeHandler() -> HTTPServerHandler<Responder> {
    HTTPServerHandler(responder: responder, idleTime: TimeAmount(limits.idleTime), metrics: metrics, logger: logger)
  }
}

/// What a connection does when the server stops, which its version of HTTP decides. Used on the connection's event loop only.
final class ConnectionStop {
  /// How long TLS may still take to be made.
  private static let drainTime = TimeAmount.milliseconds(250)

  /// Nil until the version is known.
  var action: (() -> Void)? {
    didSet { if isStopping { action?() } }
  }

  private let channel: any Channel
  private var isStopping = false

  init(_ channel: any Channel) { self.channel = channel }

  func stop() {
    isStopping = true
    if let action { return action() }
    channel.eventLoop.assumeIsolated().scheduleTask(in: Self.drainTime) { [weak self, channel] in
      if self?.action == nil { channel.cutOff() }
    }
  }
}
