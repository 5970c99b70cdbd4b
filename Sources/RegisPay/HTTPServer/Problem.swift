import HTTPTypes
import NIOCore
import NIOHTTPTypes

/// An error as `application/problem+json` (RFC 9457). `type` is stable, for programs; `detail` is for people.
struct Problem: Error, Hashable {
  var status: HTTPResponse.Status
  /// The last part of `type`.
  var name: String
  var detail: String
  var headers: [Header] = []
  /// The members of the body that are wrong, and why.
  var errors: [FieldError] = []

  struct Header: Sendable, Hashable {
    var name: HTTPField.Name
    var value: String
  }

  static func notFound(_ detail: String) -> Problem { Problem(status: .notFound, name: "not-found", detail: detail) }

  static func badRequest(_ detail: String) -> Problem {
    Problem(status: .badRequest, name: "bad-request", detail: detail)
  }

  static var keyReused: Problem {
    Problem(
      status: .unprocessableContent, name: "idempotency-key-reused",
      detail: "This Idempotency-Key was used for another request; nothing was changed. Use a new key for each intent.")
  }

  static var keyUnreadable: Problem {
    Problem(
      status: .internalServerError, name: "idempotency-key-unreadable",
      detail:
        "The result of this Idempotency-Key can't be read, because the log is or was damaged there; nothing was done now. "
        + "Look for its payment before you use a new key.")
  }

  static func methodNotAllowed(_ allowed: [HTTPRequest.Method]) -> Problem {
    let names = allowed.map(\.rawValue).joined(separator: ", ")
    return Problem(
      status: .methodNotAllowed, name: "method-not-allowed", detail: "This resource supports \(names).",
      headers: [Header(name: .allow, value: names)])
  }

  static func unavailable(_ detail: String) -> Problem {
    Problem(
      status: .serviceUnavailable, name: "unavailable", detail: detail, headers: [Header(name: .retryAfter, value: "1")]
    )
  }

  var json: JSONValue {
    var members: [JSONValue.Member] = [
      .init("type", .string("/problems/\(name)")), .init("title", .string(status.reasonPhrase)),
      .init("status", .integer(status.code)), .init("detail", .string(detail.withoutKeys)),
    ]
    if !errors.isEmpty { members.append(.init("errors", FieldError.json(errors))) }
    return .object(members)
  }

  /// The fields of the response, without those that the connection adds.
  func fields(bodyBytes: Int) -> HTTPFields {
    var fields: HTTPFields = [
      // No client may guess another content type, and no cache may store the response.
      .contentType: "application/problem+json", .xContentTypeOptions: "nosniff", .cacheControl: "no-store",
      .contentLength: "\(bodyBytes)",
    ]
    for header in headers { fields[header.name] = header.value }
    return fields
  }

  /// The whole response, for a request that no route sees.
  var parts: [HTTPResponsePart] {
    let body = json.bytes
    var fields = fields(bodyBytes: body.count)
    fields[.date] = HTTPDate.now()
    return [.head(HTTPResponse(status: status, headerFields: fields)), .body(ByteBuffer(bytes: body)), .end(nil)]
  }
}

/// What is wrong with one member of a request's body.
struct FieldError: Sendable, Hashable {
  var field: String
  var messages: [String]

  static func json(_ errors: [FieldError]) -> JSONValue {
    .object(errors.map { .init($0.field.withoutKeys, .array($0.messages.map { .string($0.withoutKeys) })) })
  }
}
