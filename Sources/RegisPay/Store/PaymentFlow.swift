import Synchronization

/// What becomes of payments, counted as their events are appended: how many are accepted, completed and ended otherwise, and how long
/// completion takes. Counting costs one short lock for an event. Safe to use from any task.
final class PaymentFlow: Sendable {
  /// What an event says about its payment's way.
  enum Kind: Sendable, Hashable {
    case accepted, completed
    /// Declined, cancelled, failed or its outcome unknown.
    case endedOtherwise

    /// Nil for an event that neither begins nor ends a payment. A refund with an unknown outcome does not end its payment.
    init?(_ event: PaymentEvent) {
      switch event {
      case .initiated: self = .accepted
      case .completed: self = .completed
      case .declined, .cancelled, .failed: self = .endedOtherwise
      case .outcomeUnknown(let work, _) where work.step != .refund: self = .endedOtherwise
      case .created, .settled, .cancellationRequested, .cancellationRefused, .delayed, .retried, .refundRequested,
        .refunded, .refundDeclined, .refundFailed, .outcomeUnknown, .outcomeResolved:
        return nil
      }
    }
  }

  /// What was counted in some time.
  struct Tally: Sendable {
    var accepted: UInt64 = 0
    var completed: UInt64 = 0
    var otherEnds: UInt64 = 0
    /// From a payment's first event to its completion.
    private(set) var completionTimes = TimeDistribution()

    mutating func count(_ kind: Kind) {
      switch kind {
      case .accepted: accepted += 1
      case .completed: completed += 1
      case .endedOtherwise: otherEnds += 1
      }
    }

    /// Notes how long a completion took, by the log's times. Equal times say nothing: the log's time stands still while it is ahead
    /// of the machine's clock.
    mutating func noteCompletion(from begin: UInt64, to end: UInt64) {
      if end > begin { completionTimes.add(microseconds: end - begin) }
    }

    mutating func add(_ other: Tally) {
      accepted += other.accepted
      completed += other.completed
      otherEnds += other.otherEnds
      completionTimes.add(other.completionTimes)
    }
  }

  private let tally = Mutex(Tally())

  /// Counts events that were appended to one payment.
  ///
  /// - Parameters:
  ///   - begin: the time of the payment's first event, by the log; nil if these are its first ones.
  ///   - now: the log's time.
  func count(_ events: [PaymentEvent], from begin: UInt64?, to now: @autoclosure () -> UInt64) {
    let kinds = events.compactMap(Kind.init)
    guard !kinds.isEmpty else { return }
    let end = kinds.contains(.completed) ? now() : nil
    tally.withLock { tally in
      for kind in kinds { tally.count(kind) }
      if let begin, let end { tally.noteCompletion(from: begin, to: end) }
    }
  }

  /// What was counted since the last call.
  func take() -> Tally {
    tally.withLock { tally in
      defer { tally = Tally() }
      return tally
    }
  }
}
