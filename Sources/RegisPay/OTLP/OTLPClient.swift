import NIOCore
import NIOHTTP1
import NIOPosix

/// Posts signals to a collector.
struct OTLPClient: Sendable {
  enum Answer: Sendable {
    /// - Parameters:
    ///   - rejected: the number of signals that the collector says it has dropped.
    ///   - reason: what it says about them.
    case accepted(rejected: Int, reason: String?)
    /// Trying again would not help.
    case refused(reason: String)
    /// - Parameter after: the wait that the collector asks for.
    case failed(reason: String, after: Duration?)
  }

  private static let responseLimit = 64 << 10
  /// The longest wait that a collector may ask for.
  private static let retryAfterLimit = Duration.seconds(300)

  /// Characters of a collector's message that are kept.
  private static let messageLimit = 300

  /// The collector's URL, for log lines.
  let address: String
  private let pool: ConnectionPool
  private let headers: HTTPHeaders
  private let isCompressed: Bool
  /// The member of a response that tells how many signals were dropped.
  private let rejectedName: String

  /// - Parameter rejectedName: `rejectedSpans` or another name, by the kind of signals.
  init(_ options: OTLPOptions, rejectedName: String) throws(EndpointError) {
    self.rejectedName = rejectedName
    address = BaseURL.shown(options.url)
    pool = try ConnectionPool(
      try Endpoint(options.url), timeLimit: options.timeLimit, responseLimit: Self.responseLimit,
      truncatesResponses: true,
      connectionLimit: 1, group: MultiThreadedEventLoopGroup.singleton.next())
    isCompressed = options.isCompressed
    var headers: HTTPHeaders = [
      "Host": pool.endpoint.authority, "Content-Type": "application/json", "User-Agent": "RegisPay",
    ]
    for (name, value) in options.headers { headers.replaceOrAdd(name: name, value: value) }
    self.headers = headers
  }

  /// Fails soon when the task is cancelled.
  func send(_ body: [UInt8]) async -> Answer {
    var headers = headers
    var body = body
    if isCompressed, let compressed = GZip.compress(body) {
      body = compressed
      headers.add(name: "Content-Encoding", value: "gzip")
    }
    headers.add(name: "Content-Length", value: String(body.count))
    let uri = pool.endpoint.prefix.isEmpty ? "/" : pool.endpoint.prefix
    let head = HTTPRequestHead(version: .http1_1, method: .POST, uri: uri, headers: headers)
    switch await pool.send(ClientCall(head: head, body: ByteBuffer(bytes: body))) {
    case .failure(let failure): return .failed(reason: "\(failure)", after: nil)
    case .success(let response): return answer(response)
    }
  }

  func close() { pool.close() }

  /// A number of signals, which may be a number or a text; one that is too large for any is all of them.
  private static func count(_ json: JSONValue?) -> Int {
    switch json {
    case .number(let text)?, .string(let text)?:
      guard let number = Double(text), number >= 1 else { return 0 }
      return UInt64(text).map(Int.init(clamping:)) ?? (number < 1e15 ? Int(number) : .max)
    default: return 0
    }
  }

  /// What the specification says of a response: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response.
  private func answer(_ response: ClientResponse) -> Answer {
    switch response.status {
    case 200..<300:
      // Most collectors say nothing, or that nothing was rejected.
      let partial = (try? JSONReader.read(response.body))?["partialSuccess"]
      let message = partial?["errorMessage"]?.text
      return .accepted(
        rejected: Self.count(partial?[rejectedName]),
        reason: message.flatMap { $0.isEmpty ? nil : String($0.prefix(Self.messageLimit)) })
    case 429, 502, 503, 504:
      return .failed(
        reason: "it returned \(response.status)", after: response.retryAfter.map { min($0, Self.retryAfterLimit) })
    default: return .refused(reason: "it returned \(response.status)")
    }
  }
}
