import HTTPTypes
import Hummingbird
import NIOCore
import Synchronization

@testable import RegisPay

/// A receiver of webhooks in this process, over real HTTP, with configurable responses. It records what it receives.
final class FakeReceiver: Sendable {
  struct Received: Sendable {
    var path: String
    var headers: [String: String]
    var body: String

    var id: String { headers["webhook-id"] ?? "" }
    var signatures: [String] { (headers["webhook-signature"] ?? "").split(separator: " ").map(String.init) }

    func json() throws -> JSONValue { try JSONReader.read(Array(body.utf8)) }
  }

  struct Reply: Sendable {
    var status = 200
    var headers: [(String, String)] = []
    var body = ""

    static let ok = Reply()
    static func status(_ status: Int, _ headers: [(String, String)] = []) -> Reply {
      Reply(status: status, headers: headers)
    }
  }

  typealias Answer = @Sendable (Received) async -> Reply

  private let respond: Mutex<Answer>
  private let messages = Mutex<[Received]>([])
  private let port = Mutex(0)

  private init(_ respond: @escaping Answer) { self.respond = Mutex(respond) }

  var url: String { "http://127.0.0.1:\(port.withLock { $0 })/hook" }
  var received: [Received] { messages.withLock { $0 } }
  var ids: [String] { received.map(\.id) }

  func respond(_ respond: @escaping Answer) { self.respond.withLock { $0 = respond } }

  /// Runs one while `work` runs.
  static func run(
    _ respond: @escaping Answer = { _ in .ok }, _ work: @escaping @Sendable (FakeReceiver) async throws -> Void
  ) async throws {
    let receiver = FakeReceiver(respond)
    let router = Router()
    router.add(middleware: ReceiverMiddleware(receiver: receiver))
    try await withApplication(router) { port in
      receiver.port.withLock { $0 = port }
      try await work(receiver)
    }
  }

  fileprivate func take(_ message: Received) async -> Reply {
    messages.withLock { $0.append(message) }
    return await respond.withLock { $0 }(message)
  }
}

private struct ReceiverMiddleware: RouterMiddleware {
  let receiver: FakeReceiver

  func handle(
    _ request: Request, context: BasicRequestContext, next: (Request, BasicRequestContext) async throws -> Response
  ) async throws -> Response {
    let body = try await request.body.collect(upTo: 1 << 20)
    let reply = await receiver.take(
      .init(
        path: request.uri.string,
        headers: Dictionary(
          request.headers.map { ($0.name.canonicalName, $0.value) } + [("host", request.head.authority ?? "")],
          uniquingKeysWith: { $1 }), body: String(buffer: body)))
    var response = Response(
      status: .init(code: reply.status), body: .init(byteBuffer: ByteBuffer(string: reply.body)))
    for (name, value) in reply.headers {
      if let name = HTTPField.Name(name) { response.headers[name] = value }
    }
    return response
  }
}
