import AsyncHTTPClient
import NIOCore

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

/// Makes calls with an idempotency key and a time limit over pooled connections.
struct Caller: Sendable {
  let client: HTTPClient
  /// For a call as a whole, from connecting to the answer's last byte.
  let timeLimit: Duration
  /// The `Authorization` field's value, if the other side wants one.
  var authorization: String?

  /// Bytes of an answer; none of ours needs more.
  private static let answerLimit = 64 << 10

  /// Posts JSON. When the task is cancelled it fails soon.
  func post(_ url: String, key: String, _ body: JSONValue) async -> Result<HTTPAnswer, CallFailure> {
    var request = HTTPClientRequest(url: url)
    request.method = .POST
    request.headers.add(name: "Content-Type", value: "application/json")
    request.headers.add(name: "Idempotency-Key", value: key)
    if let authorization { request.headers.add(name: "Authorization", value: authorization) }
    request.body = .bytes(ByteBuffer(bytes: body.bytes))
    do {
      // The client's own deadline ends with the answer's head; a body that trickles in must not hold a slot for ever.
      return try await withThrowingTaskGroup(of: Result<HTTPAnswer, CallFailure>.self) { group in
        group.addTask { [request] in .success(try await self.answer(to: request)) }
        group.addTask {
          try await Task.sleep(for: timeLimit)
          return .failure(.noAnswer(within: timeLimit))
        }
        defer { group.cancelAll() }
        return try await group.next() ?? .failure(.noAnswer(within: timeLimit))
      }
    } catch {
      return .failure(.connection("\(error)"))
    }
  }

  private func answer(to request: HTTPClientRequest) async throws -> HTTPAnswer {
    let response = try await client.execute(request, deadline: .now() + TimeAmount(timeLimit))
    let body = try await response.body.collect(upTo: Self.answerLimit)
    return HTTPAnswer(
      status: Int(response.status.code), body: Array(body.readableBytesView),
      retryAfter: response.headers.first(name: "Retry-After").flatMap(Self.retryAfter))
  }

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
