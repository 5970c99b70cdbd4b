import HTTPTypes
import NIOCore

extension HTTPLimits {
  /// What is wrong with a request by its head alone, in any version of HTTP.
  ///
  /// - Parameters:
  ///   - mayHaveBody: the request has a body, as far as its head tells.
  ///   - check: decides about requests with a body.
  func problem(
    with head: HTTPRequest, mayHaveBody: Bool, from channel: any Channel, _ check: HeadCheck?
  ) -> Problem? {
    if let path = head.path, path.utf8.count > uriBytes { return .uriTooLong(limit: uriBytes) }
    // A number of digits that is no `Int` is too large, too.
    if let text = head.headerFields[.contentLength], Int(text).map({ $0 > bodyBytes }) ?? true {
      return .bodyTooLarge(limit: bodyBytes)
    }
    return mayHaveBody ? check?(head, channel) : nil
  }
}

/// What ``ConnectionGuard`` and ``StreamGuard`` respond to a request that exceeds a limit or is not HTTP.
extension Problem {
  static func headTooLarge(_ limits: HTTPLimits) -> Problem {
    Problem(
      status: .requestHeaderFieldsTooLarge, name: "head-too-large",
      detail: "A request's head may have at most \(limits.headBytes) bytes and \(limits.headFields) fields.")
  }

  static func uriTooLong(limit: Int) -> Problem {
    Problem(status: .uriTooLong, name: "uri-too-long", detail: "Path and query may have at most \(limit) bytes.")
  }

  static func bodyTooLarge(limit: Int) -> Problem {
    Problem(
      status: .contentTooLarge, name: "content-too-large", detail: "The body may have at most \(limit) bytes.")
  }

  static let chunksTooSmall = Problem(
    status: .contentTooLarge, name: "chunks-too-small",
    detail: "The body comes in too many small chunks; send larger ones.")

  static let tooManyBodies = Problem.unavailable(
    "Nothing was done: the bodies of unfinished requests use all the memory that they may. Try again, and send the body "
      + "at once.")

  static let tooManyHeads = Problem.unavailable(
    "Nothing was done: the heads of unfinished requests use all the memory that they may. Try again, and send the head "
      + "at once.")

  static func tooManyPipelined(limit: Int) -> Problem {
    .badRequest("At most \(limit) requests may wait for their responses on a connection.")
  }

  static let versionNotSupported = Problem(
    status: .httpVersionNotSupported, name: "version-not-supported", detail: "This server speaks HTTP/1.1 and HTTP/1.0."
  )

  static let methodNotImplemented = Problem(
    status: .notImplemented, name: "method-not-implemented", detail: "This server has no such method.")

  static let malformed = Problem.badRequest("This is not an HTTP/1.1 request.")

  static let expectationFailed = Problem(
    status: .expectationFailed, name: "expectation-failed", detail: "The only expectation supported is 100-continue.")

  static let tooSlow = Problem(
    status: .requestTimeout, name: "too-slow", detail: "The request did not arrive in time.")
}
