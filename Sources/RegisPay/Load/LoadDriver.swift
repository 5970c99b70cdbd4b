import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// Sends payments to a server at a constant rate, whatever its responses (open loop), and measures each latency from the time at
/// which the request should have been sent: a server that stalls can't hide that by slowing the load down.
public struct LoadDriver: Sendable {
  public struct Options: Sendable {
    /// The server's address, such as `http://127.0.0.1:8080`.
    public var url: String
    /// Payments a second.
    public var rate: Int
    public var duration: Duration
    /// An API key with the scopes read and write, if the server requires one.
    public var key: String?
    /// For a URL with `https`.
    public var tls = ClientTLS()
    /// The longest wait for the last payments to complete.
    public var completionLimit = Duration.seconds(60)

    public init(url: String, rate: Int, duration: Duration) {
      self.url = url
      self.rate = rate
      self.duration = duration
    }
  }

  /// The most requests in flight; further ones are not sent and count as errors.
  private static let inFlightLimit = 10_000
  private static let callTimeLimit = Duration.seconds(30)

  private let options: Options
  private let tally = LoadTally()
  private let clock = ContinuousClock()

  public init(_ options: Options) { self.options = options }

  /// Runs the load and waits for its payments to complete.
  ///
  /// - Parameter onProgress: called about once a second.
  /// - Throws: when the server can't be reached at all.
  public func run(onProgress: @escaping @Sendable (LoadCounts) -> Void) async throws -> LoadReport {
    // One thread: the server lacks what the load takes of the machine.
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let result: Result<LoadReport, any Error>
    do {
      result = .success(
        try await withTaskExecutorPreference(LoopExecutor.of(group.next())) { try await run(on: group, onProgress) })
    } catch {
      result = .failure(error)
    }
    try await group.shutdownGracefully()
    return try result.get()
  }

  private func run(
    on group: MultiThreadedEventLoopGroup, _ onProgress: @escaping @Sendable (LoadCounts) -> Void
  ) async throws -> LoadReport {
    let pool = try ConnectionPool(
      try Endpoint(options.url), timeLimit: Self.callTimeLimit, responseLimit: 64 << 10, tls: options.tls, group: group)
    defer { pool.close() }
    let end = try await logEnd(pool)
    return await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await follow(pool, from: end) }
      group.addTask {
        while !Task.isCancelled {
          try await Task.sleep(for: .seconds(1))
          onProgress(tally.counts)
        }
      }
      await send(pool)
      await waitForCompletion(pool)
      group.cancelAll()
      return tally.report()
    }
  }

  private func head(_ method: HTTPMethod, _ path: String, _ pool: ConnectionPool) -> HTTPRequestHead {
    var head = HTTPRequestHead(
      version: .http1_1, method: method, uri: pool.endpoint.prefix + path,
      headers: ["Host": pool.endpoint.authority])
    if let key = options.key { head.headers.add(name: "Authorization", value: "Bearer \(key)") }
    return head
  }

  private func get(_ path: String, _ pool: ConnectionPool) async throws(CallFailure) -> ClientResponse {
    try await pool.send(.init(head: head(.GET, path, pool), body: ByteBuffer())).get()
  }

  private func logEnd(_ pool: ConnectionPool) async throws -> UInt64 {
    let response = try await get("/api/v1/payments?limit=1", pool)
    // A response without it comes from another kind of server.
    guard case .number(let text)? = (try? JSONReader.read(response.body))?["asOf"], let end = UInt64(text) else {
      // Or from a RegisPay server that requires a key.
      guard ![401, 403].contains(response.status) else {
        throw LoadError.noKey(url: options.url, status: response.status)
      }
      throw LoadError.noRegisPay(url: options.url)
    }
    return end
  }

  /// The shortest sleep before requests are sent.
  private static let pace = Duration.milliseconds(1)

  private func send(_ pool: ConnectionPool) async {
    let start = clock.now
    let interval = Duration.seconds(1) / options.rate
    let count = Int(options.duration / interval)
    await withDiscardingTaskGroup { group in
      for index in 0..<count {
        let intended = start + interval * index
        // A late wake-up sends all due requests at once, each with the time at which it should have been sent.
        if intended > clock.now {
          // Ends early only when the task is cancelled.
          try? await clock.sleep(until: max(intended, clock.now + Self.pace), tolerance: .zero)
        }
        guard !Task.isCancelled else { return }
        guard tally.counts.inFlight < Self.inFlightLimit else {
          tally.notSent("not sent, as \(Self.inFlightLimit) requests were in flight")
          continue
        }
        tally.begin(intended: intended)
        group.addTask { await createPayment(pool, index: index, intended: intended) }
      }
    }
  }

  private func createPayment(_ pool: ConnectionPool, index: Int, intended: ContinuousClock.Instant) async {
    let currency = Currency.supported[index % Currency.supported.count]
    let money = Money(minorUnits: Int64(1 + index % 100_000), currency: currency)
    let body = ByteBuffer(string: "{\"amount\":\(money.decimal),\"currency\":\"\(currency.code)\"}")
    var head = head(.POST, "/api/payment/create", pool)
    head.headers.add(name: "Content-Type", value: "application/json")
    head.headers.add(name: "Content-Length", value: String(body.readableBytes))
    switch await pool.send(ClientCall(head: head, body: body, isRepeatable: false)) {
    case .failure(let failure): tally.failed("\(failure)")
    case .success(let response):
      guard response.status == 200 else { return tally.failed("status \(response.status)") }
      guard let id = (try? JSONReader.read(response.body))?["paymentId"]?.text.flatMap({ PaymentID($0) })
      else { return tally.failed("status 200 without a paymentId") }
      tally.accepted(id, intended: intended, at: clock.now)
    }
  }

  /// Follows the server's event stream and counts completions, until the task is cancelled. Resumes after a break.
  private func follow(_ pool: ConnectionPool, from start: UInt64) async {
    let next = Mutex(start)
    while !Task.isCancelled {
      let lines = Mutex(LineSplitter())
      let path = "/api/v1/events?type=PaymentCompleted&from=\(next.withLock { $0 })"
      // The result doesn't matter: the loop resumes the stream, and `waitForCompletion` asks for payments that were missed.
      _ = await pool.send(
        .init(
          head: head(.GET, path, pool), body: ByteBuffer(),
          sink: { [tally, clock] buffer in
            for line in lines.withLock({ $0.split(buffer.readableBytesView) }) {
              // An event's id is the store's id, a hyphen and the offset.
              if let id = line.dropping(prefix: "id: "),
                let offset = id.split(separator: "-").last.flatMap({ UInt64($0) })
              {
                next.withLock { $0 = offset + 1 }
              }
              guard let data = line.dropping(prefix: "data: ") else { continue }
              let stream = (try? JSONReader.read(Array(data.utf8)))?["stream"]?.text
              if let id = stream.flatMap(PaymentID.init(stream:)) { tally.completed(id, at: clock.now) }
            }
          }))
      // Ends early only when the task is cancelled.
      try? await Task.sleep(for: .milliseconds(200))
    }
  }

  private func waitForCompletion(_ pool: ConnectionPool) async {
    let deadline = clock.now + options.completionLimit
    while !tally.open.isEmpty, clock.now < deadline {
      try? await Task.sleep(for: .milliseconds(200))
    }
    // The event stream is only faster; the payment itself decides. One that can't be read counts as not completed.
    for id in tally.open {
      guard let response = try? await get("/api/v1/payments/\(id)", pool),
        let json = try? JSONReader.read(response.body)
      else { continue }
      if json["status"]?.text == PaymentStatus.completed.rawValue { tally.completed(id, at: clock.now) }
    }
  }
}

/// Why a load could not start.
public enum LoadError: Error, Sendable, CustomStringConvertible {
  case noRegisPay(url: String)
  case noKey(url: String, status: Int)

  public var description: String {
    switch self {
    case .noKey(let url, let status):
      "\(url) returned \(status); set REGISPAY_KEY to a key with the scopes read and write"
    case .noRegisPay(let url): "the server at \(url) is not a RegisPay server"
    }
  }
}

/// Splits a stream of bytes into lines.
private struct LineSplitter {
  private var rest: [UInt8] = []

  /// The lines that these bytes complete, without line breaks.
  mutating func split(_ bytes: some Collection<UInt8>) -> [String] {
    rest.append(contentsOf: bytes)
    var lines = rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    // The last piece, possibly empty, is not complete yet.
    rest = lines.popLast().map(Array.init) ?? []
    return lines.map { String(decoding: $0, as: UTF8.self) }
  }
}

extension String {
  fileprivate func dropping(prefix: String) -> String? { hasPrefix(prefix) ? String(dropFirst(prefix.count)) : nil }
}
