import Foundation
import Logging
import Synchronization

/// Carries out batches, and remembers the last ones.
///
/// A batch lives in memory. A stop of the server ends it, and nothing of it is left half done: each payment's command is one append. To
/// begin it again does no harm, since payments that have had the command refuse it, or no longer pass the filter.
///
/// Safe to use from any task.
final class Batches: Sendable {
  struct Limits: Sendable {
    /// Batches that run at once.
    var running = 4
    /// Batches that are remembered, those that run included.
    var remembered = 50
    /// Commands of one batch at once: they share syncs, and leave room for requests.
    var commands = 16
    /// Pauses while the log can't be written, before the batch fails.
    var pauses = [Duration.milliseconds(200), .seconds(1), .seconds(2), .seconds(5), .seconds(10)]
  }

  /// A batch is not begun, because as many as possible run.
  struct TooMany: Error {
    var limit: Int
  }

  /// A batch is not begun, because the list of payments is being rebuilt.
  struct IncompleteList: Error {}

  private struct State {
    /// The latest last.
    var batches: [Batch] = []
    var tasks: [String: Task<Void, Never>] = [:]
    var isStopped = false
  }

  private let log: PaymentLog
  private let projection: PaymentProjection
  private let logger: Logger
  private let limits: Limits
  private let state = Mutex(State())

  init(log: PaymentLog, projection: PaymentProjection, logger: Logger, limits: Limits = .init()) {
    self.log = log
    self.projection = projection
    self.logger = logger
    self.limits = limits
  }

  /// The latest first.
  var all: [Batch] { state.withLock { $0.batches.reversed() } }

  subscript(id: String) -> Batch? { state.withLock { state in state.batches.first { $0.id == id } } }

  /// Begins one.
  ///
  /// - Parameters:
  ///   - query: the filters; its order and page don't count.
  ///   - isStillAllowed: whether the one who began it still may. Asked before each payment.
  func begin(
    _ action: Batch.Action, _ query: PaymentQuery, filter: JSONValue, limit: Int?, by actor: KeyHolder?,
    isStillAllowed: @escaping @Sendable () -> Bool
  ) async throws -> Batch {
    guard !projection.status.isCatchingUp else { throw IncompleteList() }
    var query = query
    (query.order, query.isDescending, query.after, query.limit) = (.created, false, nil, PaymentQuery.pageLimit)
    // Payments that come later are not meant. By offset: the log's time may be ahead of the machine's clock.
    query.belowOffset = log.reader.endOffset
    let counted = try await count(action, query)
    let batch = Batch(
      id: UUID().uuidString.lowercased(), action: action, query: query, filter: filter, limit: limit, actor: actor,
      startMicroseconds: Clock.microseconds(), expected: counted.isWhole ? min(counted.count, limit ?? .max) : nil)
    try state.withLock { state throws(TooMany) in
      guard state.tasks.count < limits.running, !state.isStopped else { throw TooMany(limit: limits.running) }
      state.batches.append(batch)
      while state.batches.count > limits.remembered,
        let oldest = state.batches.firstIndex(where: { $0.state != .running })
      {
        state.batches.remove(at: oldest)
      }
      state.tasks[batch.id] = Task { await self.run(batch, isStillAllowed) }
    }
    note("a batch began", batch)
    return batch
  }

  /// Ends a batch before it is done. One that has ended stays as it is.
  ///
  /// - Returns: nil if there is no such batch.
  func stop(_ id: String, _ reason: String) -> Batch? {
    state.withLock { state in
      guard let index = state.batches.firstIndex(where: { $0.id == id }) else { return nil }
      state.batches[index].end(.stopped, reason, at: Clock.microseconds())
      state.tasks[id]?.cancel()
      return state.batches[index]
    }
  }

  /// Runs until the server stops, and ends all batches then.
  func run() async {
    // Ends early when the task is cancelled, which is what it waits for.
    while !Task.isCancelled { try? await Task.sleep(for: .seconds(3_600)) }
    let tasks = state.withLock { state in
      state.isStopped = true
      for index in state.batches.indices {
        state.batches[index].end(.stopped, "the server stopped", at: Clock.microseconds())
      }
      return Array(state.tasks.values)
    }
    for task in tasks {
      task.cancel()
      await task.value
    }
  }

  // MARK: - One batch

  /// The payments that a batch would try; see ``PaymentProjection/count(_:)``.
  func count(
    _ action: Batch.Action, _ query: PaymentQuery
  ) async throws -> (count: Int, isWhole: Bool, asOf: UInt64) {
    let statuses = query.status.map { action.statuses.intersection([$0]) } ?? action.statuses
    var sum = (count: 0, isWhole: true, asOf: UInt64.max)
    for status in statuses {
      var query = query
      query.status = status
      let found = try await projection.count(query)
      sum = (sum.count + found.count, sum.isWhole && found.isWhole, min(sum.asOf, found.asOf))
      guard sum.isWhole else { break }
    }
    // No status that allows it is asked for.
    return statuses.isEmpty ? (0, true, projection.status.nextOffset) : sum
  }

  private func run(_ batch: Batch, _ isStillAllowed: @Sendable () -> Bool) async {
    do {
      try await carryOut(batch, isStillAllowed)
      end(batch.id, .done)
    } catch is CancellationError {
      // What stopped it has said why.
      end(batch.id, .stopped)
    } catch let ended as Ended {
      end(batch.id, ended.state, ended.reason)
    } catch {
      end(batch.id, .failed, "\(error)")
    }
    state.withLock { $0.tasks[batch.id] = nil }
    if let ended = self[batch.id] { note("a batch ended", ended) }
  }

  private struct Ended: Error {
    var state: Batch.State
    var reason: String
  }

  private func carryOut(_ batch: Batch, _ isStillAllowed: @Sendable () -> Bool) async throws {
    var query = batch.query
    var left = batch.limit ?? .max
    // With one status the list finds the payments without passing over others.
    if query.status == nil, batch.action.statuses.count == 1 { query.status = batch.action.statuses.first }
    repeat {
      let page = try await page(query)
      let possible = page.rows.filter { batch.action.statuses.contains($0.status) }
      // Above the limit they are not tried, though some of those before may refuse.
      let wanted = Array(possible.prefix(left))
      try await execute(wanted.map(\.id), batch, isStillAllowed)
      left -= wanted.count
      query.after = page.next
    } while query.after != nil && left > 0
  }

  private func page(_ query: PaymentQuery) async throws -> PaymentProjection.Page {
    for pause in limits.pauses {
      do {
        return try await projection.page(query)
      } catch is StatementLimit.TookTooLong {
        try await Task.sleep(for: pause)
      }
    }
    do {
      return try await projection.page(query)
    } catch is StatementLimit.TookTooLong {
      throw Ended(state: .failed, reason: "reading the list of payments takes too long; the disk may be busy")
    }
  }

  private func execute(
    _ payments: [PaymentID], _ batch: Batch, _ isStillAllowed: @Sendable () -> Bool
  ) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (number, payment) in payments.enumerated() {
        if number >= limits.commands { try await group.next() }
        guard isStillAllowed() else { throw Ended(state: .stopped, reason: "its key is no longer valid") }
        group.addTask { try await self.execute(batch, payment) }
      }
      try await group.waitForAll()
    }
  }

  private func execute(_ batch: Batch, _ payment: PaymentID) async throws {
    var pauses = limits.pauses.makeIterator()
    while true {
      try Task.checkCancellation()
      do throws(PaymentLogError) {
        switch try await request(batch, payment) {
        case .appended: change(batch.id) { $0.accepted += 1 }
        case .refused(let refusal): change(batch.id) { $0.refuse("\(refusal)") }
        }
        return
      } catch {
        guard error.isTransient else { return change(batch.id) { $0.refuse("\(error)") } }
        guard let pause = pauses.next() else {
          throw Ended(state: .failed, reason: "the log can't be written or read now: \(error)")
        }
        try await Task.sleep(for: pause)
      }
    }
  }

  /// Ends with its command when the batch is stopped, too: what became of it counts.
  private func request(_ batch: Batch, _ payment: PaymentID) async throws(PaymentLogError) -> PaymentLog.Executed {
    let request = Task { () async -> Result<PaymentLog.Executed, PaymentLogError> in
      do throws(PaymentLogError) {
        return .success(try await log.request(batch.action.command, of: payment, by: batch.actor))
      } catch {
        return .failure(error)
      }
    }
    return try await request.value.get()
  }

  private func change(_ id: String, _ body: (inout Batch) -> Void) {
    state.withLock { state in
      if let index = state.batches.lastIndex(where: { $0.id == id }) { body(&state.batches[index]) }
    }
  }

  private func end(_ id: String, _ state: Batch.State, _ reason: String? = nil) {
    change(id) { $0.end(state, reason, at: Clock.microseconds()) }
  }

  private func note(_ message: String, _ batch: Batch) {
    var metadata: Logger.Metadata = [
      "batch": "\(batch.id)", "action": "\(batch.action.rawValue)",
      "filter": "\(String(decoding: batch.filter.bytes, as: UTF8.self))",
      "state": "\(batch.state.rawValue)", "accepted": "\(batch.accepted)", "refused": "\(batch.refused)",
    ]
    if let actor = batch.actor { metadata["actor"] = "\(actor.name)" }
    if let reason = batch.reason { metadata["reason"] = "\(reason)" }
    logger.notice("\(message)", metadata: metadata)
  }
}
