import LogStore
import NIOCore
import NIOPosix

/// The metrics of a running server that are read when they are asked for: payments, consumers, webhooks, logs, disk, process.
///
/// Each kind of read that may hang has its own ``BoundedRead``: a scrape then lacks these metrics, and has the others. Safe to use
/// from any task.
final class ServerMetrics: Sendable {
  static let directories = ["payments", "simulator", "projection", "webhooks"]

  private let parts: ServerParts
  private let logs: LogMetrics
  private let disk: DiskMetrics
  private let process = ProcessMetrics()
  private let loops: LoopDelays
  private let lists = BoundedRead()
  private let workers = BoundedRead()
  private let health = BoundedRead()
  private let lags = BoundedRead()
  private let files = BoundedRead()
  /// Of the folders' sizes.
  private let sizes = BoundedRead()

  init(_ parts: ServerParts, _ scrubbing: Scrubbing, directory: String) {
    self.parts = parts
    disk = DiskMetrics(directory, parts: Self.directories)
    loops = LoopDelays(MultiThreadedEventLoopGroup.singleton)
    let stores =
      [("payments", parts.log.store, parts.log.damage)]
      + (parts.simulator.map { [("simulator", $0.store, $0.follower.damage)] } ?? [])
    logs = LogMetrics(
      logs: stores.map { name, store, damage in
        LogMetrics.Log(name: name, store: store) {
          scrubbing.report(of: name)
        } damage: {
          let summary = damage.summary
          return (summary.ranges.count, summary.lostEvents)
        }
      })
  }

  /// Adds all metrics of the server to its registry. Call it once.
  func register() {
    parts.registry.add { [parts] in
      await MetricsThreads.run {
        parts.httpMetrics.families + parts.stepMetrics.families + parts.webhooks.metrics.families
      }
    }
    parts.registry.add { [self] in
      await MetricsThreads.run { self.logs.families + self.loops.families + self.breakers + self.calls }
    }
    parts.registry.add { [self] in
      await lists.value { [parts] in await PaymentCounts(parts.projection)?.families ?? [] } ?? []
    }
    parts.registry.add { [self] in await consumers() }
    for broker in [parts.broker, parts.stepPublisher].compactMap({ $0 }) {
      parts.registry.add { broker.metricFamilies }
    }
    parts.registry.add { [self] in
      await health.value { [parts] in await MetricsThreads.run { Self.health(parts.health) } } ?? []
    }
    parts.registry.add { [self] in
      await files.value { [self] in await MetricsThreads.run { self.filesAndProcess() } } ?? []
    }
  }

  /// Measures what is measured over time, until the task is cancelled.
  func run() async {
    loops.start()
    defer { loops.stop() }
    while !Task.isCancelled {
      disk.sample(appendedBytes: appendedBytes, at: MonotonicTime.nanoseconds)
      // Nobody waits for it: a disk that hangs must not hold up a stop.
      Task { [sizes, disk] in _ = await sizes.value { await MetricsThreads.run { disk.measure() } } }
      // Ends early only when the task is cancelled.
      try? await Task.sleep(for: .seconds(60))
    }
  }

  // MARK: - Files and the process

  private var appendedBytes: UInt64 {
    parts.log.store.activity.bytes + (parts.simulator?.store.activity.bytes ?? 0)
  }

  /// The room on the disk; nil if the system can't tell. Blocks for a system call.
  var space: DiskMetrics.Space? { disk.space(appendedBytes: appendedBytes, at: MonotonicTime.nanoseconds) }

  private func filesAndProcess() -> [MetricFamily] {
    var build = MetricFamily("regispay_build_info", .gauge, "1, with the version as a label.")
    build.add([.init("version", LogStore.version)], 1)
    return disk.families(appendedBytes: appendedBytes, at: MonotonicTime.nanoseconds) + process.families + [build]
  }

  private static func health(_ health: Health) -> [MetricFamily] {
    let faults = health.problems.count
    return [
      .gauge("regispay_healthy", "1 if /health says Healthy.", faults == 0 ? 1 : 0),
      .gauge("regispay_faults", "Faults that /health lists.", faults),
      .gauge("regispay_warnings", "Warnings that /health lists.", health.warnings.count),
      .counter("regispay_skipped_events", "Events that could not be read and were skipped.", health.skippedEventCount),
    ]
  }

  // MARK: - Calls

  private var calls: [MetricFamily] {
    let gate = parts.log.gate
    return [
      .gauge(
        "regispay_calls_held", "1 while no call goes out because its outcome can't be recorded.", gate.isOpen ? 0 : 1),
      .gauge("regispay_outcomes_held", "Outcomes of calls that wait in memory for the log.", gate.unrecordedCount),
      .gauge(
        "regispay_skipped_steps", "Steps of payments that can't be read, which wait for a repair.",
        parts.log.damage.summary.skipped.count),
    ]
  }

  private var breakers: [MetricFamily] {
    var state = MetricFamily(
      "regispay_breaker_state", .gauge,
      "1 for a circuit breaker's present state: of a service, or of the address of one step's calls.")
    var openings = MetricFamily("regispay_breaker_openings", .counter, "Times that failures opened a circuit breaker.")
    for named in parts.consumers.breakers {
      let labels =
        [MetricFamily.Label("service", named.service)] + (named.step.map { [.init("step", $0.rawValue)] } ?? [])
      let present =
        switch named.breaker.state {
        case .closed: "closed"
        case .open: "open"
        case .trying: "trying"
        }
      state.add(labels, "state", ["closed", "open", "trying"], is: present)
      openings.add(labels, named.breaker.openings)
    }
    return [state, openings]
  }

  // MARK: - Consumers and webhooks

  private struct Workers: Sendable {
    var steps: [StepConsumer.Status]
    var endpoints: [EndpointWorker.Condition] = []
  }

  private func consumers() async -> [MetricFamily] {
    let found = await workers.value { [parts] () -> Workers in
      var found = Workers(steps: await parts.consumers.statuses)
      for worker in parts.webhooks.all { found.endpoints.append(await worker.condition) }
      return found
    }
    let steps = found?.steps ?? []
    let projected = parts.projection.status
    var offsets = steps.map { (name: $0.name, offset: $0.nextOffset) }
    if let completion = parts.consumers.completion {
      offsets.append((CompletionConsumer.cursorName, completion.nextOffset))
    }
    offsets.append((PaymentProjection.name, projected.nextOffset))
    let enabled = (found?.endpoints ?? []).filter { ![.disabled, .disabledByServer].contains($0.state) }
    if let last = enabled.map(\.nextOffset).min() { offsets.append(("webhooks", last)) }
    for broker in [parts.broker, parts.stepPublisher].compactMap({ $0 }) {
      offsets.append((broker.name, broker.status.nextOffset))
    }
    let list = MetricFamily.gauge(
      "regispay_payment_list_complete", "0 while the list of payments is rebuilt.", projected.isCatchingUp ? 0 : 1)
    let endpoints = found.map { Self.families($0.endpoints) } ?? []
    return Self.families(of: steps) + endpoints + (await lag(offsets)) + [list]
  }

  private static func families(of steps: [StepConsumer.Status]) -> [MetricFamily] {
    func family(_ name: String, _ help: String, _ value: (StepConsumer.Status) -> Int) -> MetricFamily {
      var family = MetricFamily(name, .gauge, help)
      for status in steps { family.add([.init("step", status.step.rawValue)], value(status)) }
      return family
    }
    return [
      family("regispay_step_calls_in_flight", "Calls in flight.") { $0.inFlight },
      family("regispay_step_slow_calls", "Calls in flight for more than a quarter of a second.") { $0.slowCalls },
      family("regispay_step_unfinished", "Payments in memory whose step is not finished.") { $0.unfinished },
      family("regispay_step_waiting", "Payments in memory whose last try failed.") { $0.waiting },
    ]
  }

  private static func families(_ endpoints: [EndpointWorker.Condition]) -> [MetricFamily] {
    var states = MetricFamily("regispay_webhook_endpoints", .gauge, "Webhook endpoints, by their state.")
    for state in EndpointWorker.Condition.State.allCases {
      states.add([.init("state", state.rawValue)], endpoints.count { $0.state == state })
    }
    return [
      states,
      .gauge(
        "regispay_webhook_waiting", "Webhook messages that wait for a retry.", endpoints.reduce(0) { $0 + $1.waiting }),
      .gauge(
        "regispay_webhook_in_flight", "Webhook messages that are being sent.", endpoints.reduce(0) { $0 + $1.inFlight }),
    ]
  }

  /// - Parameter offsets: each consumer's lowest unfinished offset.
  private func lag(_ offsets: [(name: String, offset: UInt64)]) async -> [MetricFamily] {
    let end = parts.log.reader.endOffset
    var events = MetricFamily(
      "regispay_consumer_lag_events", .gauge,
      "Events from the lowest one that a consumer has not finished to the end of the log; webhooks: of the last enabled endpoint."
    )
    for (name, offset) in offsets { events.add([.init("consumer", name)], end - min(end, offset)) }
    var seconds = MetricFamily(
      "regispay_consumer_lag_seconds", .gauge, "The age of that lowest event by the log's time; 0 if there is none.")
    let ages =
      await lags.value { [log = parts.log] in
        await MetricsThreads.run { offsets.map { Self.age(of: $0.offset, log) } }
      } ?? []
    for (consumer, age) in zip(offsets, ages) {
      if let age { seconds.add([.init("consumer", consumer.name)], age) }
    }
    return [events, seconds]
  }

  /// Seconds; nil if the event can't be read now. Reads the header of one frame.
  static func age(of offset: UInt64, _ log: PaymentLog) -> Double? {
    guard offset < log.reader.endOffset else { return 0 }
    var microseconds: UInt64?
    do throws(LogStoreError) {
      _ = try log.follower.forEachNow(from: offset) { event in
        microseconds = event.timestampMicroseconds
        return false
      }
    } catch {
      // The consumer meets the same error, and reports it.
      return nil
    }
    let now = Clock.microseconds() + log.store.clockLeadMicroseconds
    return microseconds.map { now > $0 ? Double(now - $0) / 1e6 : 0 }
  }
}

/// What the list of payments counts. It lags behind the log.
private struct PaymentCounts: Sendable {
  let parked: Int
  let unknown: Int
  let delayed: [(step: PaymentStep, count: Int)]

  /// Nil if the list can't be read, which `/health` reports.
  init?(_ projection: PaymentProjection) async {
    do {
      parked = try await projection.parkedCount()
      unknown = try await projection.unknownCount()
      var delayed: [(step: PaymentStep, count: Int)] = []
      for step in PaymentStep.allCases { delayed.append((step, try await projection.delayCount(step))) }
      self.delayed = delayed
    } catch {
      return nil
    }
  }

  var families: [MetricFamily] {
    var waits = MetricFamily("regispay_step_delayed", .gauge, "Payments whose step waits for a time on the log.")
    for (step, count) in delayed { waits.add([.init("step", step.rawValue)], count) }
    return [
      .gauge("regispay_payments_parked", "Parked payments: a person has to release them.", parked),
      .gauge(
        "regispay_payments_outcome_unknown", "Payments with a step whose outcome is unknown: a person has to decide.",
        unknown),
      waits,
    ]
  }
}
