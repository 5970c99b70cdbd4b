import ArgumentParser
import RegisPay
import Synchronization

/// The payment server under load, over real HTTP on this machine.
struct PaymentsBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "payments",
    abstract: "Send payments to a server at a constant rate, and measure how many it completes and how soon.",
    discussion: """
      The server is a process of its own with everything in it: the API, the consumers, and the PSP and the notification \
      service, which it calls over HTTP. Every append is synced. The load is a second process on the same cores, with one \
      thread; what it takes is not the server's. Times begin when a request was due, not when it was sent, so that a \
      server that stalls can't slow the load down to look better. They are kept one by one, percentiles are exact.

      Fields of each line of JSON: rate and seconds as asked; payments_before; ready_ms (from the start of the process to \
      its first answer); sent, accepted, completed, errors, incomplete; accepted_per_second and completed_per_second (from \
      the first request to the last acceptance and completion); accepted_p50_us p90 p99 p999 max and completed_…; \
      list_behind_events_max (how far the list of payments was behind the log, looked at once a second); \
      server_cpu_us_per_payment; syncs_per_payment (of both logs); broker (whether events were published); anonymous_bytes_begin, _middle, _end, _peak (the \
      server's memory that is no file's); others_cpu_percent, steal_percent and busy as in the other workloads.
      """)

  @Option(
    name: .customLong("rate"),
    help: "Payments a second. Given more than once, one after another on the same store, the server started anew.")
  var rates = [3000]

  @Option(help: "How long.")
  var seconds = 180

  @Option(help: "Completed payments that the store holds before; they are written first, which takes time and space.")
  var payments = 0

  @Option(
    help: ArgumentHelp(
      "Measure each rate twice, without and with integration events published to this broker.",
      discussion: """
        A queue has to be bound to the exchange Regis.Pay.Domain.IntegrationEvents:IntegrationEventBase. What the broker \
        itself takes of the processor is not the server's. The server's processor time for a payment with it, beside that without \
        it, is printed: repeat a rate for several pairs.
        """, valueName: "url"))
  var broker: String?

  @OptionGroup var output: OutputOptions

  func validate() throws {
    guard rates.allSatisfy((1...100_000).contains) else { throw ValidationError("--rate must be 1 to 100000") }
    guard (1...86_400).contains(seconds) else { throw ValidationError("--seconds must be 1 to 86400") }
    guard (0...100_000_000).contains(payments) else { throw ValidationError("--payments must be 0 to 100000000") }
    guard output.out == nil else { throw ValidationError("bench payments writes no report; leave out --out") }
  }

  /// Bytes on disk of a payment, in both logs and the list: an upper bound.
  private static let bytesOfOne = 4_000

  func run() async throws {
    let reporter = output.reporter()
    let directory = try output.directory()
    try FreeSpace.check(
      (payments + rates.reduce(0, +) * seconds) * Self.bytesOfOne, in: directory.path,
      for: "bench payments of that many")
    try await reporter.begin()
    if payments > 0 {
      try await PaymentsFill(directory: directory.file("data")).run(payments) {
        reporter.progress("written \(grouped(Double($0))) of \(payments) payments")
      }
      // The list of payments is built once; the measured start finds it.
      let first = try PaymentsServer.start(directory.file("data"))
      try await first.waitForList { reporter.progress("making the list of payments: offset \($0)") }
      first.stop()
    }
    var isGood = true
    var present = payments
    // What one leaves behind in caches must not always help the other.
    var isBrokerFirst = false
    for rate in rates {
      var processorTimes: [Bool: Double] = [:]
      for hasBroker in broker == nil ? [false] : [isBrokerFirst, !isBrokerFirst] {
        let result = try await measure(
          rate, on: directory.file("data"), present, broker: hasBroker ? broker : nil, reporter)
        present += result.load.sent
        isGood = isGood && result.load.isGood
        processorTimes[hasBroker] = result.cpuOfOne
      }
      isBrokerFirst.toggle()
      if let with = processorTimes[true], let without = processorTimes[false] {
        reporter.line(
          text:
            "publishing: the server's processor time for a payment is \(fixed(with / without, 3)) of that without it",
          json: "{\"workload\":\"publishing\",\"rate\":\(rate),\"server_cpu_ratio\":\(fixed(with / without, 3))}")
      }
    }
    guard isGood else { throw ExitCode(1) }
  }

  private func measure(
    _ rate: Int, on directory: String, _ present: Int, broker: String?, _ reporter: Reporter
  ) async throws -> PaymentsResult {
    let server = try PaymentsServer.start(directory, broker: broker)
    if broker != nil { try await server.waitForBroker(within: .seconds(600)) }
    try await Task.sleep(for: .milliseconds(200))
    let before = server.status
    let watch = BusynessWatch()
    var load = LoadDriver.Options(url: server.url, rate: rate, duration: .seconds(seconds))
    load.completionLimit = .seconds(120)
    let (report, listBehind) = try await whileWatchingList(server.url) { [load] in
      try await LoadDriver(load).run { progress in
        reporter.progress(
          "sent \(progress.sent)  accepted \(progress.accepted)  completed \(progress.completed)")
      }
    }
    if broker != nil { try await server.waitForBroker(within: .seconds(600)) }
    // Its state is known ten times a second.
    try await Task.sleep(for: .milliseconds(200))
    let busyness = watch.since()
    let result = PaymentsResult(
      rate: rate, seconds: seconds, paymentsBefore: present, isPublishing: broker != nil,
      readyMilliseconds: server.readyMilliseconds, load: report,
      before: before, after: server.status, memory: server.memory, listBehind: listBehind, busyness: busyness)
    reporter.line(text: result.text, json: result.json)
    if busyness.isBusy { reporter.warn("the machine was busy with something else: \(busyness.text)") }
    server.stop()
    return result
  }

  /// - Returns: what `work` returns, and the greatest number of events that the list of payments was behind the log,
  ///   sampled once a second.
  private func whileWatchingList<Value: Sendable>(
    _ url: String, _ work: @escaping @Sendable () async throws -> Value
  ) async throws -> (Value, Int) {
    let client = try ServerClient(url: url, key: nil)
    defer { client.close() }
    return try await withThrowingTaskGroup(of: Void.self) { group in
      let most = Mutex(0)
      group.addTask {
        do {
          while true {
            try await Task.sleep(for: .seconds(1))
            let page = try await client.get("/api/v1/payments?limit=1")
            guard case .number(let place) = page["asOf"], case .number(let end) = page["logEnd"],
              let place = Int(place), let end = Int(end)
            else { throw BenchError("the server does not say how far its list of payments is") }
            most.withLock { $0 = max($0, end - place) }
          }
        } catch {
          guard Task.isCancelled else { throw error }
        }
      }
      let value = try await work()
      group.cancelAll()
      try await group.waitForAll()
      return (value, most.withLock { $0 })
    }
  }
}
