import HTTPTypes
import HummingbirdCore
import NIOCore

/// Refuses a request with a body at its head, so that no byte of the body is kept: with what the middlewares and the router would
/// refuse it after its body, in the same order, and for an encoding of the body.
///
/// Runs on the connection's event loop: some microseconds, no disk access.
struct HeadRefusals: Sendable {
  let access: AccessMiddleware
  /// Routes that this server does not have.
  var absent: Set<String> = []

  /// - Returns: the reason to refuse the request; nil if its body is worth reading.
  func problem(with head: HTTPRequest, from channel: any Channel) -> Problem? {
    do throws(Problem) {
      try check(head, from: channel)
      return nil
    } catch {
      return error
    }
  }

  private func check(_ head: HTTPRequest, from channel: any Channel) throws(Problem) {
    let uri = URI(head.path ?? "")
    let path = RouteAccess.route(at: uri.path)
    let route = path.flatMap { absent.contains($0) || RouteAccess.needed($0, head.method) == nil ? nil : $0 }
    try access.checkHead(head, to: route, from: channel)
    try TargetMiddleware.check(uri, of: head.method, to: route)
    guard route != nil else { throw .unrouted(uri.path, methods: RouteAccess.methods(at: uri.path, absent: absent)) }
    try Self.checkEncoding(head)
  }

  /// The routes read bodies as they are: a body that happens to be readable is no proof that it is not encoded.
  private static func checkEncoding(_ head: HTTPRequest) throws(Problem) {
    let codings = head.headerFields[values: .contentEncoding].joined(separator: ",").lowercased().split(separator: ",")
      .map { $0.filter { $0 != " " && $0 != "\t" } }
    guard codings.allSatisfy({ $0.isEmpty || $0 == "identity" }) else {
      throw Problem(
        status: .unsupportedMediaType, name: "content-encoding",
        detail: "The body must not be encoded; send it without Content-Encoding. Nothing was done.",
        headers: [.init(name: .acceptEncoding, value: "identity")])
    }
  }
}

extension Problem {
  /// No route takes the request: 405 if the path has other methods, otherwise 404.
  static func unrouted(_ path: String, methods: [HTTPRequest.Method]?) -> Problem {
    methods.map(methodNotAllowed) ?? .notFound("There is nothing at \(path).")
  }
}
