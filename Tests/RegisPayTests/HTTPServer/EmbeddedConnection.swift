import HTTPTypes
import Hummingbird
import NIOCore
import NIOEmbedded
import Synchronization

@testable import RegisPay

/// One connection of a server without a socket, and its client. Its loop runs on the test's thread, and only when the client does
/// something, so a test has its steps in its own order. Not for tests that suspend.
final class EmbeddedConnection {
  /// Responds with 200 to every request, and remembers the bodies.
  struct Responder: HTTPResponder {
    typealias Context = BasicRequestContext

    let bodies = Bodies()

    func respond(to request: Request, context: Context) async throws -> Response {
      let body = try await request.body.collect(upTo: 1 << 20)
      bodies.all.withLock { $0.append(Array(body.readableBytesView)) }
      return Response(status: .ok, body: ResponseBody(byteBuffer: ByteBuffer(string: "done")))
    }
  }

  final class Bodies: Sendable {
    let all = Mutex<[[UInt8]]>([])
  }

  let channel = EmbeddedChannel()
  let handler: HTTPServerHandler<Responder>
  private let responder = Responder()

  init(
    _ table: ConnectionTable, limits: HTTPLimits = HTTPLimits(), checkHead: HeadCheck? = nil
  ) throws {
    handler = HTTPServerHandler(responder: responder, idleTime: TimeAmount(limits.idleTime), logger: silent)
    let pipeline = channel.pipeline.syncOperations
    try ConnectionGuard(limits: limits, table: table, internalToken: InternalToken(), checkHead: checkHead)
      .addHandlers(to: pipeline)
    try pipeline.addHandler(handler)
    try channel.connect(to: SocketAddress(ipAddress: "192.0.2.1", port: 1)).wait()
  }

  /// The bodies of the requests that reached the responder.
  var bodies: [String] { responder.bodies.all.withLock { $0.map { String(decoding: $0, as: UTF8.self) } } }

  /// - Returns: what the client has received then.
  @discardableResult
  func send(_ texts: String...) throws -> String {
    for text in texts { try channel.writeInbound(ByteBuffer(string: text)) }
    return try settle()
  }

  func wait(_ time: TimeAmount) throws -> String {
    channel.embeddedEventLoop.advanceTime(by: time)
    return try settle()
  }

  func close() {
    channel.close(promise: nil)
    channel.embeddedEventLoop.run()
  }

  private func settle() throws -> String {
    channel.embeddedEventLoop.run()
    var text = ""
    while let bytes = try channel.readOutbound(as: ByteBuffer.self) { text += String(buffer: bytes) }
    return text
  }
}
