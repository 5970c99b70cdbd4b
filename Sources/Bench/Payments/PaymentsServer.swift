import ArgumentParser
import Glibc
import Logging
import RegisPay
import Synchronization

/// `bench payments-server`: the server that ``PaymentsBench`` measures. It prints its address, and then its state ten times
/// a second.
struct PaymentsServerCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "payments-server", shouldDisplay: false)

  @Argument var directory: String

  @Option var broker: String?

  func run() async throws {
    endWithParent()
    Allocator.keepMemoryFlat()
    var options = ServerOptions(directory: directory)
    if let broker { options.broker = try BrokerOptions([broker]) }
    options.port = 0
    options.logLevel.current = .error
    let logger = Logger(label: "regispay") { StreamLogHandler.standardError(label: $0) }
    let server = try Server.open(options, logger: logger)
    let memory = AnonymousMemory()
    try await server.run(stopSignals: [.sigterm]) { url in
      printLine(url)
      startThread {
        while true {
          usleep(100_000)
          var usage = rusage()
          getrusage(0, &usage)  // RUSAGE_SELF
          let time = [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + Int($1.tv_sec) * 1_000_000 + Int($1.tv_usec) }
          printLine("\(memory.now) \(server.syncCount) \(time)")
        }
      }
    }
  }
}

/// The process of a ``PaymentsServerCommand``.
final class PaymentsServer: Sendable {
  struct Status: Sendable {
    /// Bytes.
    var anonymous = 0
    var syncs = 0
    var cpuMicroseconds = 0
  }

  let url: String
  let readyMilliseconds: Double
  private let process: ChildProcess
  private let statuses = Mutex<[Status]>([])

  /// - Parameter broker: the URL of one to publish to; nil for none.
  static func start(_ directory: String, broker: String? = nil) throws -> PaymentsServer {
    let start = ContinuousClock.now
    let process = try ChildProcess(["payments-server", directory] + (broker.map { ["--broker", $0] } ?? []))
    guard let url = process.line() else { throw BenchError("the server ended instead of starting") }
    return PaymentsServer(process, url: url, ready: start.duration(to: .now))
  }

  private init(_ process: ChildProcess, url: String, ready: Duration) {
    self.process = process
    self.url = url
    readyMilliseconds = ready / .milliseconds(1)
    startThread { [self] in
      while let line = process.line() {
        let fields = line.split(separator: " ")
        guard fields.count == 3, let anonymous = Int(fields[0]), let syncs = Int(fields[1]), let time = Int(fields[2])
        else { continue }
        let status = Status(anonymous: anonymous, syncs: syncs, cpuMicroseconds: time)
        statuses.withLock { $0.append(status) }
      }
    }
  }

  var status: Status { statuses.withLock { $0.last ?? Status() } }
  /// Bytes of anonymous memory, ten times a second.
  var memory: [Int] { statuses.withLock { $0.map(\.anonymous) } }

  /// Waits until the list of payments reaches back to the first.
  func waitForList(progress: (String) -> Void) async throws {
    let client = try ServerClient(url: url, key: nil)
    defer { client.close() }
    while true {
      let page = try await client.get("/api/v1/payments?limit=1")
      if page["complete"] == .bool(true) { return }
      if case .number(let place) = page["asOf"], case .number(let end) = page["logEnd"] {
        progress("\(place) of \(end)")
      }
      try await Task.sleep(for: .milliseconds(500))
    }
  }

  /// Waits until the broker has confirmed all events.
  func waitForBroker(within limit: Duration) async throws {
    let client = try ServerClient(url: url, key: nil)
    defer { client.close() }
    let end = ContinuousClock.now + limit
    while true {
      guard case .array(let consumers) = try await client.get("/api/v1/consumers")["consumers"],
        let broker = consumers.first(where: { $0["name"] == .string("broker") })
      else { throw BenchError("the server does not say how far the broker is") }
      if broker["lag"] == .number("0") { return }
      guard ContinuousClock.now < end else {
        throw BenchError(
          "the broker has not taken all events within \(limit); is a queue bound to IntegrationEventBase? \(broker)")
      }
      try await Task.sleep(for: .milliseconds(100))
    }
  }

  /// Ends it as an operator would, with its logs closed.
  func stop() { process.terminate() }
}
