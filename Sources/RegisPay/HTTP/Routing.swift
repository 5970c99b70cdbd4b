import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import NIOHTTP1

typealias Routes = Router<HTTPRequestContext>
typealias Handler = @Sendable (Request, HTTPRequestContext) async throws -> Response

extension RouterMethods<HTTPRequestContext> {
  /// Adds handlers for the methods of a path; HEAD is handled as GET (the router's option). For other methods
  /// ``RouteAccess/methods(at:)`` distinguishes known from unknown paths.
  func handle(_ path: RouterPath, _ handlers: [HTTPRequest.Method: Handler]) {
    for (method, handler) in handlers { on(path, method: method, use: handler) }
  }
}

/// Turns every error into `application/problem+json`, including unknown routes and unexpected errors.
struct ProblemMiddleware: RouterMiddleware {
  /// The methods of a path; nil if there is no route.
  var methods: @Sendable (String) -> [HTTPRequest.Method]? = { RouteAccess.methods(at: $0) }

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    do {
      return try await next(request, context)
    } catch let problem as Problem {
      return try problem.response(from: request, context: context)
    } catch let error as HTTPParserError {
      // The client closed the connection within a body: this is not a fault, and no client waits for a response.
      throw error
    } catch let error as HTTPError {
      let problem =
        error.status == .notFound
        ? Problem.unrouted(request.uri.path, methods: methods(request.uri.path))
        : Problem(status: error.status, name: "http-\(error.status.code)", detail: error.body ?? "")
      return try problem.response(from: request, context: context)
    } catch PaymentLogError.incomplete(let id, let missing) {
      // The repair of the log reported what was lost. A client that asks for such a payment must not get an incomplete one.
      return try Problem.incomplete(id, missing).response(from: request, context: context)
    } catch PaymentLogError.damaged(let id, _) {
      return try Problem.damaged(id).response(from: request, context: context)
    } catch PaymentLogError.newerEvent(let id, let event) {
      return try Problem.newerEvent(id, event).response(from: request, context: context)
    } catch let error where Task.isCancelled {
      // The client has closed the connection: nobody waits for a response, and nothing failed.
      throw error
    } catch {
      // The client does not get the error: it may contain internal details.
      context.logger.error(
        "request failed", metadata: ["path": "\(request.uri.path)", "error": "\(String(reflecting: error))"])
      return try Problem(
        status: .internalServerError, name: "internal", detail: "The server failed; its log has the reason."
      ).response(from: request, context: context)
    }
  }
}

extension Request {
  /// The body as JSON.
  ///
  /// - Throws: ``Problem`` 415 or 413, or ``JSONError``.
  func readJSON(limit: Int) async throws -> JSONValue {
    try requireJSON()
    return try await Self.json(try await readBody(limit: limit))
  }

  /// Bytes of JSON up to which parsing is no slower than a hop to another thread.
  private static let shortBody = 2 << 10

  /// Parses a body's bytes as JSON. Long bodies are parsed on another thread, because 64 KiB may take some milliseconds, which
  /// would block the connection's loop.
  static func json(_ bytes: [UInt8]) async throws(JSONError) -> JSONValue {
    guard bytes.count > shortBody else { return try JSONReader.read(bytes) }
    return try await RequestThreads.run(.short) { () throws(JSONError) in try JSONReader.read(bytes) }
  }

  /// The body's bytes.
  ///
  /// - Throws: ``Problem`` 413 when there are more than `limit`.
  func readBody(limit: Int) async throws -> [UInt8] {
    let tooLarge = Problem.bodyTooLarge(limit: limit)
    if let length = headers[.contentLength].flatMap(Int.init), length > limit { throw tooLarge }
    var bytes: [UInt8] = []
    for try await buffer in body {
      guard bytes.count + buffer.readableBytes <= limit else { throw tooLarge }
      bytes.append(contentsOf: buffer.readableBytesView)
    }
    return bytes
  }

  /// - Throws: ``Problem`` 415.
  func requireJSON() throws(Problem) {
    let unsupported = Problem(
      status: .unsupportedMediaType, name: "unsupported-media-type",
      detail: headers[.contentType].map { "The body must be application/json in UTF-8, not \($0)." }
        ?? "The Content-Type field is missing; the body must be application/json.")
    guard let field = headers[.contentType] else { throw unsupported }
    let parts = field.lowercased().split(separator: ";", omittingEmptySubsequences: false)
      .map { $0.filter { $0 != " " && $0 != "\t" && $0 != "\"" } }
    guard let type = parts.first,
      type == "application/json" || (type.hasPrefix("application/") && type.hasSuffix("+json"))
    else { throw unsupported }
    for part in parts.dropFirst() where part.hasPrefix("charset=") && part != "charset=utf-8" { throw unsupported }
  }
}
