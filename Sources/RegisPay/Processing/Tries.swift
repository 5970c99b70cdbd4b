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

    var isEmpty: Bool { inFlight == 0 && !mayHaveHappened }
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

  /// Ends a try.
  ///
  /// - Parameter mayHaveHappened: the try may have been carried out, and the log does not say so.
  func end(_ id: PaymentID, _ work: PaymentWork, mayHaveHappened: Bool) {
    update(id, work) { entry in
      entry.inFlight -= 1
      if mayHaveHappened { entry.mayHaveHappened = true }
    }
  }

  /// Forgets the ended tries: the log says what they may have done.
  func forget(_ id: PaymentID, _ work: PaymentWork) {
    update(id, work) { $0.mayHaveHappened = false }
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
