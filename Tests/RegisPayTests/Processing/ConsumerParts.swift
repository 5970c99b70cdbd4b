import LogStore
import Testing

@testable import RegisPay

/// A consumer of `PaymentInitiated` on a real log, and its dependencies.
struct ConsumerParts {
  static let cursor = "payment-create"

  static var quick: StepConsumer.Options {
    var options = StepConsumer.Options()
    options.backoff = Backoff(base: .milliseconds(2), cap: .milliseconds(10))
    options.cursorInterval = .milliseconds(20)
    options.stopLimit = .milliseconds(100)
    return options
  }

  var log: PaymentLog
  var delays: any DelayedWork = NothingDelayed()
  var retryStatus = RetryStatus()
  var health = Health(stores: [])
  var breaker = Breaker(
    name: "fake", options: .init(failureLimit: 5, openDuration: .milliseconds(50), quietDuration: .zero))

  func states(_ ids: [PaymentID]) throws -> [PaymentStatus?] { try ids.map { try log.load($0)?.payment.status } }

  /// Waits until all of these payments have a status.
  func wait(for ids: [PaymentID], _ status: PaymentStatus) async throws {
    try await eventually("the payments are \(status)") { try states(ids).allSatisfy { $0 == status } }
  }

  func initiate(_ count: Int) async throws -> [PaymentID] {
    try await withThrowingTaskGroup(of: PaymentID.self) { group in
      for index in 1...count {
        group.addTask { try await log.initiate(Money(minorUnits: Int64(index), currency: Currency.supported[0])) }
      }
      return try await group.reduce(into: []) { $0.append($1) }
    }
  }

  /// Runs a consumer while `work` runs, and then stops it.
  func consuming(
    _ provider: FakeProvider, _ options: StepConsumer.Options = Self.quick, _ work: (StepConsumer) async throws -> Void
  ) async throws {
    let consumer = StepConsumer(
      .create, log: log, delays: delays, provider: provider, breaker: breaker, retryStatus: retryStatus, health: health,
      options: options,
      logger: silent)
    let run = Task { try await consumer.run() }
    let result: Result<Void, any Error>
    do {
      result = .success(try await work(consumer))
    } catch {
      result = .failure(error)
    }
    consumer.stop()
    let didStop = try await endsByItself(run)
    #expect(didStop, "told to stop, the consumer stops")
    try result.get()
  }

  /// With the list of payments, as in a server, as the source of due work.
  static func withDelays(
    _ work: (_ parts: ConsumerParts, _ options: StepConsumer.Options) async throws -> Void
  ) async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        var parts = ConsumerParts(log: PaymentLog(store))
        let projection = try PaymentProjection.open(folder, log: parts.log, health: parts.health, logger: silent)
        let run = Task { await projection.run() }
        parts.delays = projection
        var options = quick
        options.durableDelay = .milliseconds(500)
        let result: Result<Void, any Error>
        do { result = .success(try await work(parts, options)) } catch { result = .failure(error) }
        run.cancel()
        await run.value
        await projection.close()
        try result.get()
      }
    }
  }
}
