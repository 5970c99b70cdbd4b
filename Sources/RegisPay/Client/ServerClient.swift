import NIOCore
import NIOHTTP1

/// Calls the API of a running server, for commands. Safe to use from any task.
public struct ServerClient: Sendable {
  private let pool: ConnectionPool
  private let key: String?

  private static let timeLimit = Duration.seconds(30)
  private static let responseLimit = 16 << 20

  /// - Parameters:
  ///   - url: the server's address, such as `http://127.0.0.1:8080`.
  ///   - key: an API key, if the server asks for one.
  ///   - tls: for a URL with `https`.
  ///   - connectionLimit: for each event loop.
  public init(url: String, key: String?, tls: ClientTLS = .init(), connectionLimit: Int = 8) throws(EndpointError) {
    pool = try ConnectionPool(
      try Endpoint(url), timeLimit: Self.timeLimit, responseLimit: Self.responseLimit,
      connectionLimit: connectionLimit, tls: tls)
    self.key = key
  }

  public func close() { pool.close() }

  public func get(_ path: String) async throws(ServerClientError) -> JSONValue { try await send(.GET, path) }

  /// - Parameters:
  ///   - idempotencyKey: nil for a request that has no use for one.
  ///   - body: nil for none.
  public func post(
    _ path: String, idempotencyKey: String?, body: JSONValue? = nil
  ) async throws(ServerClientError) -> JSONValue {
    try await send(.POST, path, idempotencyKey: idempotencyKey, body: body)
  }

  private func send(
    _ method: HTTPMethod, _ path: String, idempotencyKey: String? = nil, body: JSONValue? = nil
  ) async throws(ServerClientError) -> JSONValue {
    let bytes = ByteBuffer(bytes: body?.bytes ?? [])
    var head = HTTPRequestHead(
      version: .http1_1, method: method, uri: pool.endpoint.prefix + path,
      headers: ["Host": pool.endpoint.authority, "Content-Length": String(bytes.readableBytes)])
    if body != nil { head.headers.add(name: "Content-Type", value: "application/json") }
    if let key { head.headers.add(name: "Authorization", value: "Bearer \(key)") }
    if let idempotencyKey { head.headers.add(name: "Idempotency-Key", value: idempotencyKey) }
    switch await pool.send(.init(head: head, body: bytes)) {
    case .failure(let failure): throw .noResponse("\(failure)")
    case .success(let response):
      let json = try? JSONReader.read(response.body)
      guard (200..<300).contains(response.status) else {
        throw .refused(status: response.status, detail: Self.detail(json))
      }
      guard let json else { throw .unreadable }
      return json
    }
  }

  /// What a problem says, with its lines for single fields.
  private static func detail(_ problem: JSONValue?) -> String {
    let detail = problem?["detail"]?.text ?? ""
    guard case .object(let fields)? = problem?["errors"] else { return detail }
    let lines = fields.map { field in
      guard case .array(let texts) = field.value else { return field.key }
      return "\(field.key): \(texts.compactMap(\.text).joined(separator: ", "))"
    }
    return ([detail] + lines).joined(separator: " ")
  }
}

/// Why a server did not do what a command asked. `description` is one line.
public enum ServerClientError: Error, Sendable, Hashable, CustomStringConvertible {
  case noResponse(String)
  /// The response is not JSON.
  case unreadable
  case refused(status: Int, detail: String)
  /// A page of a list is followed by one that was there before.
  case endlessList(next: String)

  public var description: String {
    switch self {
    case .noResponse(let reason): "no response: \(reason)"
    case .unreadable: "the response is not JSON"
    case .refused(let status, let detail): "refused with \(status): \(detail)"
    case .endlessList(let next):
      "the list does not end: the server names the page \(String(reflecting: String(next.prefix(100)))) as the next one again; what was"
        + " shown so far may be incomplete. Look whether --url leads to a RegisPay server"
    }
  }
}
