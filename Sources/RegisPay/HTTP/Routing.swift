import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import NIOHTTP1

typealias Routes = Router<HTTPRequestContext>
typealias Handler = @Sendable (Request, HTTPRequestContext) async throws -> Response

extension RouterMethods<HTTPRequestContext> {
  /// Answers a path: these methods with their handlers, and HEAD as GET (by the router's option). Other methods are told
  /// from unknown paths by ``RouteAccess/methods(at:)``.
  func answer(_ path: RouterPath, _ handlers: [HTTPRequest.Method: Handler]) {
    for (method, handler) in handlers { on(path, method: method, use: handler) }
  }
}

/// Turns every error into `application/problem+json`: an unknown route, and what no handler foresaw.
struct ProblemMiddleware: RouterMiddleware {
  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    do {
      return try await next(request, context)
    } catch let problem as Problem {
      return try problem.response(from: request, context: context)
    } catch let error as HTTPParserError {
      // The client broke off in the middle of a body: nothing is wrong here, and nobody is there to be answered.
      throw error
    } catch let error as HTTPError {
      let problem =
        if error.status != .notFound {
          Problem(status: error.status, name: "http-\(error.status.code)", detail: error.body ?? "")
        } else if let methods = RouteAccess.methods(at: request.uri.path) {
          Problem.methodNotAllowed(methods)
        } else {
          Problem.notFound("There is nothing at \(request.uri.path).")
        }
      return try problem.response(from: request, context: context)
    } catch PaymentLogError.incomplete(let id, let missing) {
      // Whoever repaired the log was told what was lost; a client that asks for such a payment is not served less than
      // all of it.
      return try Problem.incomplete(id, missing).response(from: request, context: context)
    } catch PaymentLogError.damaged(let id, _) {
      return try Problem.damaged(id).response(from: request, context: context)
    } catch PaymentLogError.newerEvent(let id, let event) {
      return try Problem.newerEvent(id, event).response(from: request, context: context)
    } catch {
      // Not told to the client: it may hold what is none of its business.
      context.logger.error(
        "a request failed", metadata: ["path": "\(request.uri.path)", "error": "\(String(reflecting: error))"])
      return try Problem(
        status: .internalServerError, name: "internal", detail: "Something went wrong here; the log says what."
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

  /// Bytes of JSON that are read as soon as they could be given to another thread.
  private static let shortBody = 2 << 10

  /// A body's bytes as JSON. Long ones are read where they hold up no connection: 64 KiB may take some milliseconds.
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
