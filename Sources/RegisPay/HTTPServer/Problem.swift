import HTTPTypes

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
      .init("status", .integer(status.code)), .init("detail", .string(detail)),
    ]
    if !errors.isEmpty { members.append(.init("errors", FieldError.json(errors))) }
    return .object(members)
  }
}

/// What is wrong with one member of a request's body.
struct FieldError: Sendable, Hashable {
  var field: String
  var messages: [String]

  static func json(_ errors: [FieldError]) -> JSONValue {
    .object(errors.map { .init($0.field, .array($0.messages.map(JSONValue.string))) })
  }
}
