import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

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
    let connections = try ConnectionPool(
      try Endpoint(options.url), timeLimit: Self.callTimeLimit, answerLimit: 64 << 10, group: group)
    defer { connections.close() }
    let end = try await logEnd(connections)
    return await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await follow(connections, from: end) }
      group.addTask {
        while !Task.isCancelled {
          try await Task.sleep(for: .seconds(1))
          let counts = tally.counts
          onProgress(Progress(sent: counts.sent, accepted: counts.accepted, completed: counts.completed))
        }
      }
      await send(connections)
      await waitForCompletion(connections)
      group.cancelAll()
      return tally.report()
    }
  }

  private func head(_ method: HTTPMethod, _ path: String, _ connections: ConnectionPool) -> HTTPRequestHead {
    var head = HTTPRequestHead(
      version: .http1_1, method: method, uri: connections.endpoint.prefix + path,
      headers: ["Host": connections.endpoint.authority])
    if let key = options.key { head.headers.add(name: "Authorization", value: "Bearer \(key)") }
    return head
  }

  private func get(_ path: String, _ connections: ConnectionPool) async throws(CallFailure) -> HTTPAnswer {
    try await connections.send(.init(head: head(.GET, path, connections), body: ByteBuffer())).get()
  }

  private func logEnd(_ connections: ConnectionPool) async throws -> UInt64 {
    let answer = try await get("/api/v1/payments?limit=1", connections)
    // What is no JSON, or other JSON, is told as the answer of another kind of server.
    guard case .number(let text)? = (try? JSONReader.read(answer.body))?["asOf"], let end = UInt64(text) else {
      // Without a key that may read it is one all the same.
      guard ![401, 403].contains(answer.status) else { throw LoadError.noKey(url: options.url, status: answer.status) }
      throw LoadError.noRegisPay(url: options.url)
    }
    return end
  }

  /// How often at most it wakes up to send what is due.
  private static let pace = Duration.milliseconds(1)

  private func send(_ connections: ConnectionPool) async {
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

  private func createPayment(_ connections: ConnectionPool, index: Int, intended: ContinuousClock.Instant) async {
    let currency = Currency.supported[index % Currency.supported.count]
    let money = Money(minorUnits: Int64(1 + index % 100_000), currency: currency)
    let body = ByteBuffer(string: "{\"amount\":\(money.decimal),\"currency\":\"\(currency.code)\"}")
    var head = head(.POST, "/api/payment/create", connections)
    head.headers.add(name: "Content-Type", value: "application/json")
    head.headers.add(name: "Content-Length", value: String(body.readableBytes))
    switch await connections.send(ConnectionPool.Call(head: head, body: body, isRepeatable: false)) {
    case .failure(let failure): tally.failed("\(failure)")
    case .success(let answer):
      guard answer.status == 200 else { return tally.failed("answered \(answer.status)") }
      guard let id = (try? JSONReader.read(answer.body))?["paymentId"]?.text.flatMap({ PaymentID($0) })
      else { return tally.failed("answered 200 without a paymentId") }
      tally.accepted(id, intended: intended, at: clock.now)
    }
  }

  /// Reads the server's events and notes completions, until it is cancelled; goes on where it was after a break.
  private func follow(_ connections: ConnectionPool, from start: UInt64) async {
    let next = Mutex(start)
    while !Task.isCancelled {
      let lines = Mutex(LineSplitter())
      let path = "/api/v1/events?type=PaymentCompleted&from=\(next.withLock { $0 })"
      // However it ends, it is begun again below; what was missed is asked for one by one at the end.
      _ = await connections.send(
        .init(
          head: head(.GET, path, connections), body: ByteBuffer(),
          sink: { [tally, clock] buffer in
            for line in lines.withLock({ $0.split(buffer.readableBytesView) }) {
              // An id names the store before its offset.
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
      try? await Task.sleep(for: .milliseconds(200))
    }
  }

  private func waitForCompletion(_ connections: ConnectionPool) async {
    let deadline = clock.now + options.completionLimit
    while !tally.open.isEmpty, clock.now < deadline {
      try? await Task.sleep(for: .milliseconds(200))
    }
    // The stream of events is a convenience; what counts is what the payment itself says.
    for id in tally.open {
      guard let answer = try? await get("/api/v1/payments/\(id)", connections),
        let json = try? JSONReader.read(answer.body)
      else { continue }
      if json["status"]?.text == PaymentStatus.completed.rawValue { tally.completed(id, at: clock.now) }
    }
  }
}

/// Why a load could not begin.
public enum LoadError: Error, Sendable, CustomStringConvertible {
  case noRegisPay(url: String)
  case noKey(url: String, status: Int)

  public var description: String {
    switch self {
    case .noKey(let url, let status):
      "\(url) answered \(status); set REGISPAY_KEY to a key with the scopes read and write"
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
