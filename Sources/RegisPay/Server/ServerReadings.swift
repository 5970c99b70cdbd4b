import LogStore

/// Reads how a running server stands, for ``Activity``.
///
/// Each kind of read that may hang has its own ``BoundedRead``, so that the others are known while it does. Safe to use from any task.
final class ServerReadings: Sendable {
  /// How long a read may take. There is a tick each second.
  private static let limit = Duration.milliseconds(500)

  private let parts: ServerParts
  private let metrics: ServerMetrics
  private let lags = BoundedRead(limit: ServerReadings.limit)
  private let lists = BoundedRead(limit: ServerReadings.limit)
  private let workers = BoundedRead(limit: ServerReadings.limit)
  private let health = BoundedRead(limit: ServerReadings.limit)
  private let disks = BoundedRead(limit: ServerReadings.limit)

  init(_ parts: ServerParts, _ metrics: ServerMetrics) { (self.parts, self.metrics) = (parts, metrics) }

  /// An activity of this server that begins now.
  var activity: Activity {
    Activity(
      .init(
        flow: parts.log.flow,
        syncs: { [store = parts.log.store] in
          let syncs = store.activity.syncMicroseconds
          return RangeCounts(bounds: syncs.bounds, counts: syncs.counts)
        },
        readings: { [self] in await read() }))
  }

  func read() async -> ActivityReadings {
    async let lag = self.lag()
    async let list = self.list()
    async let webhooks = self.webhooks()
    async let health = self.health.value { [parts] in
      await MetricsThreads.run {
        ActivityReadings.Health(problems: parts.health.problems.count, warnings: parts.health.warnings.count)
      }
    }
    async let space = disks.value { [metrics] in await MetricsThreads.run { metrics.space } }
    var readings = ActivityReadings()
    readings.logEnd = parts.log.reader.endOffset
    readings.listEnd = parts.projection.status.nextOffset
    readings.openBreakers = parts.consumers.breakers.compactMap(Self.breaker)
    readings.areCallsHeld = !parts.log.gate.isOpen
    readings.lag = await lag
    readings.list = await list
    readings.webhooks = await webhooks
    readings.health = await health
    readings.disk = (await space ?? nil).map {
      .init(availableBytes: $0.availableBytes, sizeBytes: $0.sizeBytes, fullInSeconds: $0.fullSeconds)
    }
    return readings
  }

  /// Nil for a breaker that is closed.
  private static func breaker(_ named: ConsumerRegistry.NamedBreaker) -> ActivityReadings.Breaker? {
    let status = named.breaker.status
    let state: String
    switch status.state {
    case .closed: return nil
    case .open: state = "open"
    case .trying: state = "trying"
    }
    return .init(service: named.service, step: named.step?.rawValue, state: state, reason: status.reason)
  }

  /// Of the step consumer that is furthest behind. While none runs, the checkpoints on the log tell.
  private func lag() async -> ActivityPoint.Lag? {
    let read = await lags.value { [parts] () -> ActivityPoint.Lag? in
      let (log, statuses) = (parts.log, await parts.consumers.statuses)
      let end = log.reader.endOffset
      let offsets =
        statuses.isEmpty
        // A store that can't tell is closed.
        ? PaymentStep.allCases.map { (try? log.reader.cursor(StepConsumer.cursorName(of: $0))) ?? 0 }
        : statuses.map(\.nextOffset)
      guard let offset = offsets.min() else { return nil }
      let age = await MetricsThreads.run { ServerMetrics.age(of: offset, log) }
      return age.map { .init(events: end - min(end, offset), seconds: $0) }
    }
    return read ?? nil
  }

  /// What the list of payments counts; nil if it can't be read, which `/health` reports.
  private func list() async -> ActivityReadings.List? {
    let read = await lists.value { [projection = parts.projection] () -> ActivityReadings.List? in
      do {
        var list = ActivityReadings.List()
        list.parked = try await projection.parkedCount()
        list.outcomeUnknown = try await projection.unknownCount()
        for step in PaymentStep.allCases { list.delayed += try await projection.delayCount(step) }
        return list
      } catch {
        return nil
      }
    }
    return read ?? nil
  }

  /// Endpoints that a person has disabled need no attention.
  private func webhooks() async -> ActivityReadings.Webhooks? {
    await workers.value { [webhooks = parts.webhooks] in
      var counts = ActivityReadings.Webhooks()
      for worker in webhooks.all {
        switch await worker.condition.state {
        case .working, .disabled: break
        case .failing: counts.failing += 1
        case .disabledByServer: counts.disabled += 1
        }
      }
      return counts
    }
  }
}
