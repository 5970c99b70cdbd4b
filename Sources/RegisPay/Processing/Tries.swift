import Synchronization

/// The steps that this process is trying, or has tried without a known outcome. The log tells what earlier processes may have
/// tried: ``PaymentLog/Loaded/trace(of:openedAt:restorations:keyLifetime:)``.
///
/// Safe to use from any task; the consumers of all steps share it. An entry is removed when the outcome is on the log.
public final class Tries: Sendable {
  private struct Key: Hashable {
    var id: PaymentID
    var work: PaymentWork
  }

  private struct Entry {
    var inFlight = 0
    var mayHaveHappened = false
    /// Of tries since the last event about the step; the last ones.
    var calls: [CallRecord] = []

    var isEmpty: Bool { inFlight == 0 && !mayHaveHappened && calls.isEmpty }
  }

  private let entries = Mutex<[Key: Entry]>([:])

  public init() {}

  /// The number of entries, for tests.
  var count: Int { entries.withLock { $0.count } }

  /// Begins a try. Call it before anything is read or sent for the try.
  ///
  /// - Returns: whether an earlier try of this process may have been carried out, or another is in flight.
  func begin(_ id: PaymentID, _ work: PaymentWork) -> Bool {
    entries.withLock { entries in
      let key = Key(id: id, work: work)
      let entry = entries[key] ?? Entry()
      entries[key, default: Entry()].inFlight += 1
      return entry.mayHaveHappened || entry.inFlight > 0
    }
  }

  /// Keeps what is known of a call that has ended.
  func note(_ call: CallRecord, _ id: PaymentID, _ work: PaymentWork) {
    update(id, work) { entry in
      if entry.calls.count == CallRecord.limit { entry.calls.removeFirst() }
      entry.calls.append(call)
    }
  }

  /// The calls of which the log doesn't tell yet.
  func calls(_ id: PaymentID, _ work: PaymentWork) -> [CallRecord] {
    entries.withLock { $0[Key(id: id, work: work)]?.calls ?? [] }
  }

  /// Ends a try.
  ///
  /// - Parameters:
  ///   - mayHaveHappened: the try may have been carried out, and the log does not say so.
  ///   - isLast: the step is not tried again.
  func end(_ id: PaymentID, _ work: PaymentWork, mayHaveHappened: Bool, isLast: Bool = false) {
    update(id, work) { entry in
      entry.inFlight -= 1
      if mayHaveHappened { entry.mayHaveHappened = true }
      if isLast { entry.calls = [] }
    }
  }

  /// Forgets the ended tries: the log says what they may have done.
  func forget(_ id: PaymentID, _ work: PaymentWork) {
    update(id, work) { entry in
      entry.mayHaveHappened = false
      entry.calls = []
    }
  }

  /// Whether a try of this process may have been carried out.
  func mayHaveHappened(_ id: PaymentID, _ work: PaymentWork) -> Bool {
    entries.withLock { entries in
      entries[Key(id: id, work: work)].map { $0.mayHaveHappened || $0.inFlight > 0 } ?? false
    }
  }

  /// Whether a try other than the caller's own, which is in flight, may have been carried out.
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
