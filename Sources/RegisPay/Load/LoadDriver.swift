import AsyncHTTPClient
import NIOCore

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
  private static let callTimeLimit = TimeAmount.seconds(30)

  private let options: Options
  private let tally = LoadTally()
  private let clock = ContinuousClock()

  public init(_ options: Options) { self.options = options }

  /// Runs the load and waits for what it started.
  ///
  /// - Throws: when the server can't be reached at all.
  public func run(onProgress: @escaping @Sendable (Progress) -> Void) async throws -> LoadReport {
    var configuration = HTTPClient.Configuration()
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 512
    return try await HTTPClient.withHTTPClient(configuration: configuration) { client in
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
        await send(client)
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
      request(options.url + "/api/v1/payments?limit=1"), timeout: Self.callTimeLimit)
    let body = try await response.body.collect(upTo: 64 << 10)
    guard case .number(let text)? = try JSONReader.read(Array(body.readableBytesView))["asOf"], let end = UInt64(text)
    else { throw LoadError.noRegisPay(url: options.url) }
    return end
  }

  private func send(_ client: HTTPClient) async {
    let start = clock.now
    let interval = Duration.seconds(1) / options.rate
    let count = Int(options.duration / interval)
    await withDiscardingTaskGroup { group in
      for index in 0..<count {
        let intended = start + interval * index
        // A late wake-up sends all that is due at once, each with the time at which it should have gone.
        if intended > clock.now { try? await clock.sleep(until: intended, tolerance: .zero) }
        guard !Task.isCancelled else { return }
        guard tally.counts.underWay < Self.underWayLimit else {
          tally.notSent("not sent, as \(Self.underWayLimit) requests were without an answer")
          continue
        }
        tally.begin()
        group.addTask { await createPayment(client, index: index, intended: intended) }
      }
    }
  }

  private func createPayment(_ client: HTTPClient, index: Int, intended: ContinuousClock.Instant) async {
    var request = request(options.url + "/api/payment/create")
    request.method = .POST
    request.headers.add(name: "Content-Type", value: "application/json")
    let currency = Currency.supported[index % Currency.supported.count]
    let money = Money(minorUnits: Int64(1 + index % 100_000), currency: currency)
    request.body = .bytes(
      ByteBuffer(string: "{\"amount\":\(money.decimal),\"currency\":\"\(currency.code)\"}"))
    do {
      let response = try await client.execute(request, timeout: Self.callTimeLimit)
      let body = try await response.body.collect(upTo: 64 << 10)
      guard response.status == .ok else { return tally.failed("answered \(response.status.code)") }
      guard let id = try JSONReader.read(Array(body.readableBytesView))["paymentId"]?.text.flatMap({ PaymentID($0) })
      else { return tally.failed("answered 200 without a paymentId") }
      tally.accepted(id, intended: intended, at: clock.now)
    } catch {
      tally.failed("\(error)")
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
            guard let data = line.dropping(prefix: "data: "), let json = try? JSONReader.read(Array(data.utf8)),
              let id = json["stream"]?.text.flatMap(PaymentID.init(stream:))
            else { continue }
            tally.completed(id, at: clock.now)
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
      guard let response = try? await client.execute(request, timeout: Self.callTimeLimit),
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
