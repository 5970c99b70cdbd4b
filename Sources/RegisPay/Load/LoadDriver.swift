import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import NIOPosix

/// Drives a server at a constant rate, whatever its answers (open loop), and measures each latency from the moment at
/// which a request should have been sent: a server that stalls can't hide it by slowing the load down.
public struct LoadDriver: Sendable {
  public struct Options: Sendable {
    /// The server's address, such as `http://127.0.0.1:8080`.
    public var url: String
    /// Payments a second.
    public var rate: Int
    public var duration: Duration
    /// An API key with the scopes read and write, if the server asks for one.
    public var key: String?
    /// How long to wait for the last payments to complete.
    public var completionLimit = Duration.seconds(60)

    public init(url: String, rate: Int, duration: Duration) {
      self.url = url
      self.rate = rate
      self.duration = duration
    }
  }

  /// How far a load is, about once a second.
  public struct Progress: Sendable {
    public var sent: Int
    public var accepted: Int
    public var completed: Int
  }

  /// Requests without an answer at once; those over it are counted as errors and not sent.
  private static let underWayLimit = 10_000
  private static let callTimeLimit = Duration.seconds(30)

  private let options: Options
  private let tally = LoadTally()
  private let clock = ContinuousClock()

  public init(_ options: Options) { self.options = options }

  /// Runs the load and waits for what it started.
  ///
  /// - Throws: when the server can't be reached at all.
  public func run(onProgress: @escaping @Sendable (Progress) -> Void) async throws -> LoadReport {
    // One thread: what the load takes of the machine, the server lacks.
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let result: Result<LoadReport, any Error>
    do {
      result = .success(
        try await withTaskExecutorPreference(LoopExecutor(group.next())) { try await run(on: group, onProgress) })
    } catch {
      result = .failure(error)
    }
    try await group.shutdownGracefully()
    return try result.get()
  }

  private func run(
    on group: MultiThreadedEventLoopGroup, _ onProgress: @escaping @Sendable (Progress) -> Void
  ) async throws -> LoadReport {
    let connections = try Connections(
      try Endpoint(options.url), timeLimit: Self.callTimeLimit, answerLimit: 64 << 10, group: group)
    defer { connections.close() }
    return try await HTTPClient.withHTTPClient(eventLoopGroup: group) { client in
      let end = try await logEnd(client)
      return await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await follow(client, from: end) }
        group.addTask {
          while !Task.isCancelled {
            try await Task.sleep(for: .seconds(1))
            let counts = tally.counts
            onProgress(Progress(sent: counts.sent, accepted: counts.accepted, completed: counts.completed))
          }
        }
        await send(connections)
        await waitForCompletion(client)
        group.cancelAll()
        return tally.report()
      }
    }
  }

  private func request(_ url: String) -> HTTPClientRequest {
    var request = HTTPClientRequest(url: url)
    if let key = options.key { request.headers.add(name: "Authorization", value: "Bearer \(key)") }
    return request
  }

  private func logEnd(_ client: HTTPClient) async throws -> UInt64 {
    let response = try await client.execute(
      request(options.url + "/api/v1/payments?limit=1"), timeout: TimeAmount(Self.callTimeLimit))
    let body = try await response.body.collect(upTo: 64 << 10)
    guard case .number(let text)? = try JSONReader.read(Array(body.readableBytesView))["asOf"], let end = UInt64(text)
    else { throw LoadError.noRegisPay(url: options.url) }
    return end
  }

  /// How often at most it wakes up to send what is due.
  private static let pace = Duration.milliseconds(1)

  private func send(_ connections: Connections) async {
    let start = clock.now
    let interval = Duration.seconds(1) / options.rate
    let count = Int(options.duration / interval)
    await withDiscardingTaskGroup { group in
      for index in 0..<count {
        let intended = start + interval * index
        // A late wake-up sends all that is due at once, each with the time at which it should have gone.
        if intended > clock.now {
          try? await clock.sleep(until: max(intended, clock.now + Self.pace), tolerance: .zero)
        }
        guard !Task.isCancelled else { return }
        guard tally.counts.underWay < Self.underWayLimit else {
          tally.notSent("not sent, as \(Self.underWayLimit) requests were without an answer")
          continue
        }
        tally.begin(intended: intended)
        group.addTask { await createPayment(connections, index: index, intended: intended) }
      }
    }
  }

  private func createPayment(_ connections: Connections, index: Int, intended: ContinuousClock.Instant) async {
    let currency = Currency.supported[index % Currency.supported.count]
    let money = Money(minorUnits: Int64(1 + index % 100_000), currency: currency)
    let body = ByteBuffer(string: "{\"amount\":\(money.decimal),\"currency\":\"\(currency.code)\"}")
    var head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: connections.endpoint.prefix + "/api/payment/create",
      headers: ["Host": connections.endpoint.authority, "Content-Type": "application/json"])
    head.headers.add(name: "Content-Length", value: String(body.readableBytes))
    if let key = options.key { head.headers.add(name: "Authorization", value: "Bearer \(key)") }
    switch await connections.send(Connections.Call(head: head, body: body, isRepeatable: false)) {
    case .failure(let failure): tally.failed("\(failure)")
    case .success(let answer):
      guard answer.status == 200 else { return tally.failed("answered \(answer.status)") }
      guard let id = (try? JSONReader.read(answer.body))?["paymentId"]?.text.flatMap({ PaymentID($0) })
      else { return tally.failed("answered 200 without a paymentId") }
      tally.accepted(id, intended: intended, at: clock.now)
    }
  }

  /// Reads the server's events and notes completions, until it is cancelled; goes on where it was after a break.
  private func follow(_ client: HTTPClient, from start: UInt64) async {
    var next = start
    while !Task.isCancelled {
      do {
        let response = try await client.execute(
          request("\(options.url)/api/v1/events?type=PaymentCompleted&from=\(next)"),
          deadline: .distantFuture)
        var lines = LineSplitter()
        for try await buffer in response.body {
          for line in lines.split(buffer.readableBytesView) {
            if let id = line.dropping(prefix: "id: "), let offset = UInt64(id) { next = offset + 1 }
            guard let data = line.dropping(prefix: "data: ") else { continue }
            let stream = (try? JSONReader.read(Array(data.utf8)))?["stream"]?.text
            if let id = stream.flatMap(PaymentID.init(stream:)) { tally.completed(id, at: clock.now) }
          }
        }
      } catch {
        // Looked for again below; what was missed is asked for one by one at the end.
      }
      try? await Task.sleep(for: .milliseconds(200))
    }
  }

  private func waitForCompletion(_ client: HTTPClient) async {
    let deadline = clock.now + options.completionLimit
    while !tally.open.isEmpty, clock.now < deadline {
      try? await Task.sleep(for: .milliseconds(200))
    }
    // The stream of events is a convenience; what counts is what the payment itself says.
    for id in tally.open {
      let request = request("\(options.url)/api/v1/payments/\(id)")
      guard let response = try? await client.execute(request, timeout: TimeAmount(Self.callTimeLimit)),
        let body = try? await response.body.collect(upTo: 64 << 10),
        let json = try? JSONReader.read(Array(body.readableBytesView))
      else { continue }
      if json["status"]?.text == PaymentStatus.completed.rawValue { tally.completed(id, at: clock.now) }
    }
  }
}

/// Why a load could not begin.
public enum LoadError: Error, Sendable, CustomStringConvertible {
  case noRegisPay(url: String)

  public var description: String {
    switch self {
    case .noRegisPay(let url): "what answers at \(url) is no RegisPay server"
    }
  }
}

/// Cuts a stream of bytes into lines.
private struct LineSplitter {
  private var rest: [UInt8] = []

  /// The lines that these bytes end, without their line breaks.
  mutating func split(_ bytes: some Collection<UInt8>) -> [String] {
    rest.append(contentsOf: bytes)
    var lines = rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    // What follows the last line break is no line yet; there is always such a piece, if an empty one.
    rest = lines.popLast().map(Array.init) ?? []
    return lines.map { String(decoding: $0, as: UTF8.self) }
  }
}

extension String {
  fileprivate func dropping(prefix: String) -> String? { hasPrefix(prefix) ? String(dropFirst(prefix.count)) : nil }
}
