import NIOCore
import NIOHTTP1

/// What an HTTP call was answered with.
struct HTTPAnswer: Sendable, Hashable {
  var status: Int
  var body: [UInt8]
  /// The `Retry-After` field, if it was a number of seconds.
  var retryAfter: Duration?
}

/// A call without an answer: whether it had an effect is unknown.
enum CallFailure: Error, Sendable, Hashable {
  case noAnswer(within: Duration)
  /// The connection could not be made, or broke.
  case connection(String)
}

/// Makes calls with an idempotency key and a time limit over kept-alive connections to one endpoint. Redirects are not
/// followed: a payment would go where nobody configured it to.
struct Caller: Sendable {
  private let connections: Connections
  private let headers: HTTPHeaders

  /// Bytes of an answer; none of ours needs more.
  private static let answerLimit = 64 << 10

  /// - Parameters:
  ///   - baseURL: what paths are appended to.
  ///   - timeLimit: for a call as a whole, from connecting to the answer's last byte.
  ///   - authorization: the value of that field, if the other side wants one.
  init(_ baseURL: String, timeLimit: Duration, authorization: String?) throws(EndpointError) {
    // ``Endpoint`` has checked the host; a path and a key are made of identifiers, percent-encoded where they are not ours.
    connections = try Connections(
      try Endpoint(baseURL), timeLimit: timeLimit, answerLimit: Self.answerLimit, validatesHeads: false)
    var headers: HTTPHeaders = ["Host": connections.endpoint.authority, "Content-Type": "application/json"]
    if let authorization { headers.add(name: "Authorization", value: authorization) }
    self.headers = headers
  }

  /// Posts JSON. When the task is cancelled it fails soon.
  ///
  /// - Parameter path: from its slash on, with what is not allowed in it encoded.
  func post(_ path: String, key: String, _ body: JSONValue) async -> Result<HTTPAnswer, CallFailure> {
    let bytes = ByteBuffer(bytes: body.bytes)
    var head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: connections.endpoint.prefix + path, headers: headers)
    head.headers.add(name: "Idempotency-Key", value: key)
    head.headers.add(name: "Content-Length", value: String(bytes.readableBytes))
    return await connections.send(Connections.Call(head: head, body: bytes))
  }

  /// Closes the connections; calls under way fail.
  func close() { connections.close() }

  /// The longest wait that the other side may impose: an outage is asked about again after that.
  private static let retryAfterLimit = 15 * 60

  /// Reads a number of seconds; the field's other form, a date, is left to our own delays.
  static func retryAfter(_ field: String) -> Duration? {
    guard let seconds = Int(field), seconds >= 0 else { return nil }
    return .seconds(min(seconds, retryAfterLimit))
  }
}

/// What an answer means, the same for all dependencies.
enum Verdict: Sendable, Hashable {
  /// A 2xx with this body.
  case accepted([UInt8])
  case outcome(CallOutcome)

  /// - Parameter name: the dependency, for the reason.
  init(_ result: Result<HTTPAnswer, CallFailure>, from name: String) {
    switch result {
    case .failure(.noAnswer(let limit)):
      self = .outcome(.retry(reason: "\(name) gave no answer within \(limit)", after: nil, isOutage: true))
    case .failure(.connection(let reason)):
      self = .outcome(.retry(reason: "\(name) can't be reached: \(reason)", after: nil, isOutage: true))
    case .success(let answer):
      switch answer.status {
      case 200..<300: self = .accepted(answer.body)
      case 429:
        self = .outcome(
          .retry(reason: "\(name) answered 429, too many requests", after: answer.retryAfter, isOutage: false))
      case 408, 500..<600:
        self = .outcome(
          .retry(reason: "\(name) answered \(answer.status)", after: answer.retryAfter, isOutage: true))
      // It does not know us, or not any more: no payment's fault, and it ends when somebody mends the credentials.
      case 401, 403, 407:
        self = .outcome(
          .retry(reason: "\(name) does not accept our credentials: \(answer.status)", after: nil, isOutage: true))
      // About the request's form or address, not about the payment.
      case 404...406, 411, 413...415, 417, 421, 425, 426, 431:
        self = .outcome(.impossible(reason: "\(name) refused with \(answer.status)"))
      case 400..<500: self = .outcome(.declined(reason: "\(name) refused with \(answer.status)"))
      default: self = .outcome(.impossible(reason: "\(name) answered \(answer.status), which means nothing here"))
      }
    }
  }
}
