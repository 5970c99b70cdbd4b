import Synchronization

/// Which steps this process has tried, or is trying, without knowing what came of it. What earlier processes may have
/// tried is told by the log: ``PaymentLog/Loaded/trace(of:openedAt:)``.
///
/// Safe to use from any task; shared by the consumers of all steps. Holds what is in flight and what has failed with an
/// unknown outcome; an entry goes when the outcome is on the log.
public final class Tries: Sendable {
  private struct Key: Hashable {
    var id: PaymentID
    var work: PaymentWork
  }

  private struct Entry {
    var inFlight = 0
    var mayHaveHappened = false

    var isEmpty: Bool { inFlight == 0 && !mayHaveHappened }
  }

  private let entries = Mutex<[Key: Entry]>([:])

  public init() {}

  /// Entries held, for tests.
  var count: Int { entries.withLock { $0.count } }

  /// A try begins, before anything is read or sent for it.
  ///
  /// - Returns: whether an earlier try of this process may have been carried out, or one is in flight beside this one.
  func begin(_ id: PaymentID, _ work: PaymentWork) -> Bool {
    entries.withLock { entries in
      let key = Key(id: id, work: work)
      let entry = entries[key] ?? Entry()
      entries[key, default: Entry()].inFlight += 1
      return entry.mayHaveHappened || entry.inFlight > 0
    }
  }

  /// A try ended.
  ///
  /// - Parameter mayHaveHappened: it may have been carried out, and the log does not say so.
  func end(_ id: PaymentID, _ work: PaymentWork, mayHaveHappened: Bool) {
    update(id, work) { entry in
      entry.inFlight -= 1
      if mayHaveHappened { entry.mayHaveHappened = true }
    }
  }

  /// What the tries so far may have done is on the log.
  func forget(_ id: PaymentID, _ work: PaymentWork) {
    update(id, work) { $0.mayHaveHappened = false }
  }

  /// Whether a try of this process may have been carried out.
  func mayHaveHappened(_ id: PaymentID, _ work: PaymentWork) -> Bool {
    entries.withLock { entries in
      entries[Key(id: id, work: work)].map { $0.mayHaveHappened || $0.inFlight > 0 } ?? false
    }
  }

  /// Whether any try but the caller's own, which is in flight, may have been carried out.
  func mayHaveHappenedBeside(_ id: PaymentID, _ work: PaymentWork) -> Bool {
    entries.withLock { entries in
      entries[Key(id: id, work: work)].map { $0.mayHaveHappened || $0.inFlight > 1 } ?? false
    }
  }

  private func update(_ id: PaymentID, _ work: PaymentWork, _ change: (inout Entry) -> Void) {
    entries.withLock { entries in
      let key = Key(id: id, work: work)
      var entry = entries[key] ?? Entry()
      change(&entry)
      entries[key] = entry.isEmpty ? nil : entry
    }
  }
}

/// What the log says about the tries of a step so far.
struct StepTrace: Sendable, Hashable {
  /// An earlier process may have made a try that was carried out.
  var mayHaveHappened = false
  /// Where on the log the step was first asked for, and when: its idempotency key can't be older. See
  /// ``PaymentLog/age(of:)``.
  var asked: Asked?

  struct Asked: Sendable, Hashable {
    var offset: UInt64
    /// Since 1970, by the log's times.
    var microseconds: UInt64
  }
}

extension PaymentLog.Loaded {
  /// What the log says about the tries of a step.
  ///
  /// There is no record before each call: at 3,000 payments a second it would be 9,000 more events a second, each synced
  /// before its call, and a payment would take three more syncs. The start of the process is proof enough. What was asked
  /// for before the log was opened may have been tried by the process before; what was asked for since then was tried by
  /// this process, if at all, and ``Tries`` knows. The price is that after a start all steps that were due count as tried.
  ///
  /// - Parameter openedAt: the log's end when this process opened it.
  func trace(of work: PaymentWork, openedAt: UInt64) -> StepTrace {
    var trace = StepTrace()
    for event in events where PaymentEvent.TypeName(rawValue: event.type)?.mayTell(of: work.step) ?? false {
      // What can't be read was written by a newer program, and is passed over as everywhere.
      guard let known = try? PaymentEvent(type: event.type, payload: event.payload) else { continue }
      if known.work == work {
        if event.offset < openedAt { trace.mayHaveHappened = true }
        trace.asked = trace.asked ?? .init(offset: event.offset, microseconds: event.timestampMicroseconds)
        continue
      }
      switch known {
      // Its time may have come in the process before, and then it was tried.
      case .delayed(let delay) where delay.work == work:
        if delay.mayHaveHappened || event.offset < openedAt { trace.mayHaveHappened = true }
      // These say what became of all tries before.
      case .failed(work.step, _, let mayHaveHappened): trace.mayHaveHappened = mayHaveHappened
      case .refundFailed(let number, _, let mayHaveHappened) where number == work.refund:
        trace.mayHaveHappened = mayHaveHappened
      case .outcomeResolved(work, happened: false): trace.mayHaveHappened = false
      default: break
      }
    }
    return trace
  }
}

extension PaymentEvent.TypeName {
  /// Whether an event of this type can say something about tries of a step.
  fileprivate func mayTell(of step: PaymentStep) -> Bool {
    switch self {
    case .delayed, .outcomeResolved: true
    case .failed: step != .refund
    case .refundFailed: step == .refund
    default: mayAsk(for: step)
    }
  }
}
