import NIOCore
import NIOHTTP1

/// What an HTTP call was answered with.
struct HTTPAnswer: Sendable, Hashable {
  var status: Int
  var body: [UInt8]
  /// How long it asks to wait (`Retry-After`), without a limit.
  var retryAfter: Duration?
  /// The call was sent before on a kept-alive connection that broke without an answer: this answer may be to its repeat.
  var isOfRepeat = false
}

/// A call without an answer.
enum CallFailure: Error, Sendable, Hashable, CustomStringConvertible {
  /// No connection could be made, or none was free in time: no byte of the call was sent.
  case unreachable(String)
  /// This process has as many connections open as it may, and made none: no fault of the other side's.
  case noSocket
  /// The call was sent and not answered in time: whether it had an effect is unknown.
  case noAnswer(within: Duration)
  /// The connection broke after the call may have been sent: whether it had an effect is unknown.
  case broken(String)

  var description: String {
    switch self {
    case .unreachable(let reason): "it can't be reached: \(reason)"
    case .noSocket: "this process has too many connections open for its limit of open files (ulimit -n)"
    case .noAnswer(let limit): "no answer within \(limit)"
    case .broken(let reason): "the connection broke: \(reason)"
    }
  }
}

/// Makes calls with an idempotency key and a time limit over kept-alive connections to one endpoint. Redirects are not
/// followed: a payment would go where nobody configured it to.
struct ProviderClient: Sendable {
  private let connections: ConnectionPool
  private let headers: HTTPHeaders

  /// Bytes of an answer; none of ours needs more.
  private static let answerLimit = 64 << 10
  /// Connections for each event loop: more than all steps' calls (``StepConsumer/Options/mostCalls``), so that none waits
  /// for a connection behind calls that hang, and times out without having been sent.
  private static let connectionLimit = 4_096

  /// - Parameters:
  ///   - baseURL: what paths are appended to.
  ///   - timeLimit: for a call as a whole, from connecting to the answer's last byte.
  ///   - authorization: the value of that field, if the other side wants one.
  init(_ baseURL: String, timeLimit: Duration, authorization: String?) throws(EndpointError) {
    // ``Endpoint`` has checked the host; a path and a key are made of identifiers, percent-encoded where they are not ours.
    connections = try ConnectionPool(
      try Endpoint(baseURL), timeLimit: timeLimit, answerLimit: Self.answerLimit,
      connectionLimit: Self.connectionLimit, budget: .process, validatesHeads: false)
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
    return await connections.send(ConnectionPool.Call(head: head, body: bytes))
  }

  /// Closes the connections; calls under way fail.
  func close() { connections.close() }

  /// The longest wait that the other side may impose: an outage is asked about again after that.
  static let retryAfterLimit = Duration.seconds(15 * 60)
}

/// What an answer means, the same for all dependencies.
enum Verdict: Sendable, Hashable {
  /// A 2xx with this body.
  case accepted([UInt8])
  case outcome(CallOutcome)

  /// - Parameter name: the dependency, for the reason.
  init(_ result: Result<HTTPAnswer, CallFailure>, from name: String) {
    switch result {
    case .failure(.unreachable(let reason)):
      self = .outcome(.retry(CallRetry(.unreachable, reason: "\(name) can't be reached: \(reason)")))
    case .failure(.noSocket):
      self = .outcome(.retry(CallRetry(.notMade, reason: "\(name) was not called: \(CallFailure.noSocket)")))
    case .failure(.noAnswer(let limit)):
      self = .outcome(.retry(CallRetry(.noAnswer, reason: "\(name) gave no answer within \(limit)")))
    case .failure(.broken(let reason)):
      self = .outcome(.retry(CallRetry(.broken, reason: "the connection to \(name) broke: \(reason)")))
    case .success(let answer): self.init(answer, from: name)
    }
  }

  private init(_ answer: HTTPAnswer, from name: String) {
    func retry(_ cause: CallRetry.Cause, _ reason: String) -> Verdict {
      .outcome(
        .retry(
          CallRetry(cause, reason: reason, after: answer.retryAfter.map { min($0, ProviderClient.retryAfterLimit) })))
    }
    let refusal = "\(name) refused with \(answer.status)"
    let meaning = StatusMeaning(answer.status)
    // What was sent first may have been carried out: no other answer to the repeat is one to that.
    if answer.isOfRepeat, (400..<500).contains(answer.status), meaning != .declined {
      self = retry(.broken, "the connection to \(name) broke, and the repeat was answered \(answer.status)")
      return
    }
    switch meaning {
    case .accepted: self = .accepted(answer.body)
    case .declined: self = .outcome(.declined(reason: refusal))
    case .refused: self = .outcome(.refused(status: answer.status, reason: refusal))
    // It ends when somebody mends the credentials: no payment's fault.
    case .credentials: self = retry(.credentials, "\(name) does not accept our credentials: \(answer.status)")
    case .misconfigured: self = retry(.misconfigured, refusal)
    case .busy: self = retry(.busy, "\(name) answered \(answer.status), too many requests")
    case .inProgress: self = retry(.inProgress, "\(name) answered \(answer.status): not now")
    case .serverError: self = retry(.serverError, "\(name) answered \(answer.status)")
    case .unclear:
      self = retry(
        .unclear, "\(name) answered \(answer.status), which doesn't say whether the call was carried out")
    case .meaningless: self = retry(.broken, "\(name) answered \(answer.status), which means nothing here")
    }
  }
}
