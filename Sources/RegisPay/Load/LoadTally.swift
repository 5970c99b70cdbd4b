import Synchronization

/// Counts a load's requests and payments. Safe to use from any task. Memory grows with the payments sent: 8 bytes for each
/// latency, and an id for each payment in flight.
final class LoadTally: Sendable {
  typealias Instant = ContinuousClock.Instant

  private struct State {
    var sent = 0
    var inFlight = 0
    /// Accepted and not seen completed, with the time at which each should have been sent.
    var open: [PaymentID: Instant] = [:]
    /// Seen completed before the response to its request.
    var early: [PaymentID: Instant] = [:]
    var toAccepted: [Duration] = []
    var toCompleted: [Duration] = []
    var errors: [String: Int] = [:]
    /// When the first request should have been sent, and when the last acceptance and completion were seen.
    var start: Instant?
    var lastAccepted: Instant?
    var lastCompleted: Instant?

    func time(to last: Instant?) -> Duration {
      guard let start, let last else { return .zero }
      return start.duration(to: last)
    }

    mutating func complete(_ intended: Instant, at now: Instant) {
      toCompleted.append(intended.duration(to: now))
      lastCompleted = max(lastCompleted ?? now, now)
    }
  }

  private let state = Mutex(State())

  var counts: LoadCounts {
    state.withLock {
      LoadCounts(
        sent: $0.sent, inFlight: $0.inFlight, accepted: $0.toAccepted.count, completed: $0.toCompleted.count)
    }
  }

  /// Accepted payments that were not seen completed.
  var open: [PaymentID] { state.withLock { Array($0.open.keys) } }

  func begin(intended: Instant) {
    state.withLock {
      $0.sent += 1
      $0.inFlight += 1
      $0.start = $0.start ?? intended
    }
  }

  func accepted(_ id: PaymentID, intended: Instant, at now: Instant) {
    state.withLock { state in
      state.inFlight -= 1
      state.toAccepted.append(intended.duration(to: now))
      state.lastAccepted = max(state.lastAccepted ?? now, now)
      if let completed = state.early.removeValue(forKey: id) {
        state.complete(intended, at: completed)
      } else {
        state.open[id] = intended
      }
    }
  }

  func failed(_ reason: String) {
    state.withLock {
      $0.inFlight -= 1
      $0.errors[reason, default: 0] += 1
    }
  }

  /// Counts a request that was never sent.
  func notSent(_ reason: String) { state.withLock { $0.errors[reason, default: 0] += 1 } }

  func completed(_ id: PaymentID, at now: Instant) {
    state.withLock { state in
      if let intended = state.open.removeValue(forKey: id) {
        state.complete(intended, at: now)
      } else if state.inFlight > 0 {
        state.early[id] = now
      }
    }
  }

  func report() -> LoadReport {
    state.withLock {
      LoadReport(
        sent: $0.sent, errors: $0.errors, incomplete: $0.open.count, toAccepted: LoadLatencies($0.toAccepted),
        toCompleted: LoadLatencies($0.toCompleted), acceptedAfter: $0.time(to: $0.lastAccepted),
        completedAfter: $0.time(to: $0.lastCompleted))
    }
  }
}

/// The counts of a load so far.
public struct LoadCounts: Sendable {
  public var sent: Int
  /// Requests without a response yet.
  public var inFlight: Int
  public var accepted: Int
  public var completed: Int
}

/// The result of a load.
public struct LoadReport: Sendable, CustomStringConvertible {
  /// Requests sent.
  public var sent: Int
  /// The count of each error.
  public var errors: [String: Int]
  /// Accepted payments that were not completed within the limit.
  public var incomplete: Int
  /// From when a request should have been sent to its response.
  public var toAccepted: LoadLatencies
  /// From when a request should have been sent to the payment's completion.
  public var toCompleted: LoadLatencies
  /// From when the first request should have been sent to the last acceptance.
  public var acceptedAfter: Duration
  /// From when the first request should have been sent to the last completion.
  public var completedAfter: Duration

  /// Whether payments were accepted, and all of them completed.
  public var isGood: Bool { incomplete == 0 && toAccepted.count > 0 }

  public var description: String {
    func padded(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(0, width - text.count)) + text
    }
    func row(_ name: String, _ latencies: LoadLatencies) -> String {
      let columns = [50, 90, 99, 99.9, 100].map { padded(latencies.percentile($0).map(milliseconds) ?? "-", 10) }
      return name + columns.joined()
    }
    var lines = [
      "sent \(sent), accepted \(toAccepted.count), completed \(toCompleted.count), "
        + "errors \(errors.values.reduce(0, +)), not completed \(incomplete)",
      "milliseconds         p50       p90       p99     p99.9       max",
      row("to accepted   ", toAccepted), row("to completed  ", toCompleted),
    ]
    for (error, count) in errors.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }).prefix(10) {
      lines.append("error, \(count) times: \(error)")
    }
    return lines.joined(separator: "\n")
  }

  /// With two decimals.
  private func milliseconds(_ duration: Duration) -> String {
    let hundredths = Int64(duration / .microseconds(10))
    let decimals = hundredths % 100
    return "\(hundredths / 100).\(decimals < 10 ? "0" : "")\(decimals)"
  }
}

/// The latencies of a load, for exact percentiles.
public struct LoadLatencies: Sendable {
  private let sorted: [Duration]

  init(_ values: [Duration]) { sorted = values.sorted() }

  public var count: Int { sorted.count }

  /// The smallest latency that at least this share of all latencies do not exceed; nil when there are none.
  ///
  /// - Parameter percent: more than 0, at most 100.
  public func percentile(_ percent: Double) -> Duration? {
    guard !sorted.isEmpty else { return nil }
    let rank = Int((percent / 100 * Double(sorted.count)).rounded(.up))
    return sorted[min(max(rank, 1), sorted.count) - 1]
  }
}
