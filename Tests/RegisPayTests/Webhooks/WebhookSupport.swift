import LogStore
import Logging
import Testing

@testable import RegisPay

/// A log, and webhooks on it.
struct WebhookBench: Sendable {
  let log: PaymentLog
  let directory: String
  let clock = ManualClock()
  var options = WebhookOptions()
  var logger = silent

  /// Runs one on a new log.
  static func run(_ work: @escaping @Sendable (WebhookBench) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      var bench = WebhookBench(log: PaymentLog(store), directory: folder + "/webhooks")
      bench.options.allowsPrivate = true
      // No claim here depends on it, and the machine may be busy.
      bench.options.timeLimit = .seconds(600)
      bench.options.schedule.jitter = 0
      bench.options.clock = bench.clock.clock
      let result: Result<Void, any Error>
      do {
        result = .success(try await work(bench))
      } catch {
        result = .failure(error)
      }
      try await store.close()
      try result.get()
    }
  }

  /// Delivers while `work` runs, and is then cut off in the middle of whatever it does.
  func delivering(_ work: @Sendable (Webhooks) async throws -> Void) async throws {
    let webhooks = try Webhooks.open(
      directory, log: log, options: options, health: Health(stores: []), logger: logger)
    let run = Task { try await webhooks.run() }
    let result: Result<Void, any Error>
    do {
      result = .success(try await work(webhooks))
    } catch {
      result = .failure(error)
    }
    run.cancel()
    _ = await run.result
    await webhooks.close()
    try result.get()
  }

  /// Appends so many new payments' first events.
  @discardableResult
  func initiate(_ count: Int) async throws -> [String] {
    var ids: [String] = []
    for index in 1...count {
      let id = try await log.initiate(Money(minorUnits: Int64(index), currency: Currency.supported[0]))
      ids.append(WebhookMessage.id(of: id, version: 1))
    }
    return ids
  }
}

extension Webhooks {
  func add(_ url: String, events: Set<PaymentEvent.TypeName>? = nil) async throws -> EndpointWorker {
    try await add(url: WebhookURL(url), description: "", events: events)
  }

  func log(of worker: EndpointWorker) async throws -> [WebhookDelivery] {
    try await deliveries(of: worker, before: .max, limit: 1_000)
  }
}

extension EndpointWorker {
  /// Waits until it has nothing in flight and its checkpoint is at this offset.
  nonisolated func rests(at place: UInt64) async throws {
    try await eventually("the endpoint is at \(place)") { await self.status.progress.checkpoint == place }
    try await eventually("nothing is in flight") { await self.inFlightCount == 0 }
  }
}
