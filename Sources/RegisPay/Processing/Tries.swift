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
