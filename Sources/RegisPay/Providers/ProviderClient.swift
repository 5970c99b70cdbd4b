import NIOCore
import NIOHTTP1

/// Makes calls with an idempotency key and a time limit over kept-alive connections to one endpoint. Does not follow
/// redirects: a payment would go to an address that nobody configured.
struct ProviderClient: Sendable {
  private let pool: ConnectionPool
  private let headers: HTTPHeaders

  /// Bytes of a response's body; no provider's response needs more.
  private static let responseLimit = 64 << 10
  /// Connections for each event loop: more than all steps' calls (``StepConsumer/Options/mostCalls``), so that no call waits
  /// for a connection behind calls that hang and times out before it was sent.
  private static let connectionLimit = 4_096

  /// - Parameters:
  ///   - baseURL: the URL that paths are appended to.
  ///   - timeLimit: for a whole call, from connecting to the response's last byte.
  ///   - authorization: the value of the `Authorization` field; nil to send none.
  ///   - sockets: for this client alone.
  init(
    _ baseURL: String, timeLimit: Duration, authorization: String?, sockets: SocketBudget
  ) throws(EndpointError) {
    // Heads need no validation: ``Endpoint`` has checked the host; paths and keys are made of identifiers, percent-encoded where
    // they are not ours.
    pool = try ConnectionPool(
      try Endpoint(baseURL), timeLimit: timeLimit, responseLimit: Self.responseLimit,
      connectionLimit: sockets.connectionsPerLoop(wanted: Self.connectionLimit, loopCount: System.coreCount),
      budget: sockets, validatesHeads: false)
    var headers: HTTPHeaders = ["Host": pool.endpoint.authority, "Content-Type": "application/json"]
    if let authorization { headers.add(name: "Authorization", value: authorization) }
    self.headers = headers
  }

  /// Posts JSON. Fails soon when the task is cancelled.
  ///
  /// - Parameter path: begins with a slash; percent-encoded.
  func post(_ path: String, key: String, _ body: JSONValue) async -> Result<ClientResponse, CallFailure> {
    let bytes = ByteBuffer(bytes: body.bytes)
    var head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: pool.endpoint.prefix + path, headers: headers)
    head.headers.add(name: "Idempotency-Key", value: key)
    head.headers.add(name: "Content-Length", value: String(bytes.readableBytes))
    CallContext.current?.trace.add(to: &head.headers)
    return await pool.send(ClientCall(head: head, body: bytes))
  }

  /// Closes the connections; calls in flight fail.
  func close() { pool.close() }

  /// The longest wait that the other side may impose: after it, a call finds out whether an outage is over.
  static let retryAfterLimit = Duration.seconds(15 * 60)
}

/// What the result of a call means, the same for all dependencies.
enum Verdict: Sendable, Hashable {
  /// A 2xx, with the response's body.
  case accepted([UInt8])
  case outcome(CallOutcome)

  /// - Parameter name: the dependency, for the reason.
  init(_ result: Result<ClientResponse, CallFailure>, from name: String) {
    switch result {
    case .failure(.unreachable(let reason)):
      self = .outcome(.retry(CallRetry(.unreachable, reason: "\(name) can't be reached: \(reason)")))
    case .failure(.noSocket):
      self = .outcome(.retry(CallRetry(.notMade, reason: "\(name) was not called: \(CallFailure.noSocket)")))
    case .failure(.timeout(let limit)):
      self = .outcome(.retry(CallRetry(.timeout, reason: "\(name) gave no response within \(limit)")))
    case .failure(.broken(let reason)):
      self = .outcome(.retry(CallRetry(.broken, reason: "the connection to \(name) broke: \(reason)")))
    case .success(let response): self.init(response, from: name)
    }
  }

  private init(_ response: ClientResponse, from name: String) {
    func retry(_ cause: CallRetry.Cause, _ reason: String) -> Verdict {
      var retry = CallRetry(
        cause, reason: reason, after: response.retryAfter.map { min($0, ProviderClient.retryAfterLimit) })
      retry.isUnconfirmed = response.isUnconfirmed
      return .outcome(.retry(retry))
    }
    let refusal = "\(name) refused with \(response.status)"
    let meaning = StatusMeaning(response.status)
    // The first call may have been carried out: no other response to the repeat says anything about the first.
    if response.isToRepeat, (400..<500).contains(response.status), meaning != .declined {
      self = retry(.broken, "the connection to \(name) broke, and the repeat got \(response.status)")
      return
    }
    switch meaning {
    case .accepted: self = .accepted(response.body)
    case .declined: self = .outcome(.declined(reason: refusal))
    case .refused: self = .outcome(.refused(status: response.status, reason: refusal))
    // Ends when somebody corrects the credentials: no payment is at fault.
    case .credentials: self = retry(.credentials, "\(name) does not accept our credentials: \(response.status)")
    case .misconfigured: self = retry(.misconfigured, refusal)
    case .busy: self = retry(.busy, "\(name) returned \(response.status), too many requests")
    case .inProgress: self = retry(.inProgress, "\(name) returned \(response.status): not now")
    case .serverError: self = retry(.serverError, "\(name) returned \(response.status)")
    case .unclear:
      self = retry(
        .unclear, "\(name) returned \(response.status), which doesn't say whether the call was carried out")
    case .meaningless: self = retry(.broken, "\(name) returned \(response.status), which means nothing here")
    }
  }
}
