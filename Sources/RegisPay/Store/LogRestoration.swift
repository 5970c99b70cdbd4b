import LogStore
import Synchronization

/// A restoration of the payments log from a backup, as an event on the log says.
struct LogRestoration: Sendable, Hashable {
  static let stream = "restorations"
  static let eventType = "PaymentsLogRestored"

  /// The log's end after the restoration: earlier events came from the backup.
  var events: UInt64
  /// When the last of them was appended, by the log's time: what was lost is not older.
  var lastMicroseconds: UInt64
  /// When the restored log was first opened, by the log's time: what was lost is older.
  var microseconds: UInt64

  /// All events that the log has now came from a backup. Blocks for a read.
  init(of reader: LogReader) throws(LogStoreError) {
    let end = reader.endOffset
    var last: UInt64 = 0
    if end > 0 {
      try reader.forEach(from: end - 1, waitsForDisk: false, endsWithTask: false, passingOver: { _ in }) { event in
        last = event.copy().timestampMicroseconds
        return false
      }
    }
    (events, lastMicroseconds, microseconds) = (end, last, max(last, Clock.microseconds()))
  }

  /// An event that can't be read, such as a newer program's, still says that the log was restored, and nothing of when it was backed
  /// up.
  fileprivate init(_ event: Event) {
    do {
      let data = try JSONReader.read(event.payload)
      (events, lastMicroseconds) = (data["events"]?.unsigned ?? event.offset, data["lastMicroseconds"]?.unsigned ?? 0)
    } catch {
      (events, lastMicroseconds) = (event.offset, 0)
    }
    microseconds = event.timestampMicroseconds
  }

  /// A restoration of which nothing is known but that it was before now.
  fileprivate init(before reader: LogReader) {
    (events, lastMicroseconds, microseconds) = (reader.endOffset, 0, Clock.microseconds())
  }

  /// The event that says so.
  var event: NewEvent {
    let payload: JSONValue = ["events": .integer(events), "lastMicroseconds": .integer(lastMicroseconds)]
    return NewEvent(stream: Self.stream, type: Self.eventType, payload: payload.bytes)
  }
}

/// All restorations of the payments log, from the first to the last.
///
/// Between a backup and its restoration, payments may have done what the restored log doesn't know. So nothing that it says about a
/// step proves any more that the step was never tried: a parked step may have been released and carried out, a payment may have been
/// settled whose creation is now repeated, and a refund that is requested now may have the number, and so the idempotency key, of one
/// that was lost. A restored log may be backed up, lost and restored again: what an earlier restoration makes doubtful stays so.
struct LogRestorations: Sendable, Hashable {
  private var all: [LogRestoration] = []

  init(_ all: [LogRestoration] = []) { self.all = all }

  /// Reads them. Blocks for some reads. If the log is damaged where one is, or a repair could not save one, there was one of which
  /// nothing is known: the other way round a payment could be charged twice.
  init(on log: PaymentLog) throws(LogStoreError) {
    do throws(LogStoreError) {
      let events = try log.follower.lookUp { reader throws(LogStoreError) in
        try reader.stream(LogRestoration.stream, endsWithTask: false)
      }
      all = events.map(LogRestoration.init)
    } catch {
      guard error.isLocalDamage || error.isLoss else { throw error }
      all = [LogRestoration(before: log.reader)]
    }
  }

  mutating func add(_ restoration: LogRestoration) { all.append(restoration) }

  /// What an event still proves.
  func weakened(_ event: PaymentEvent, at offset: UInt64) -> PaymentEvent {
    guard let last = all.last, offset < last.events else { return event }
    switch event {
    case .failed(let step, let reason, mayHaveHappened: false):
      return .failed(step: step, reason: reason, mayHaveHappened: true)
    case .refundFailed(let number, let reason, mayHaveHappened: false):
      return .refundFailed(number, reason: reason, mayHaveHappened: true)
    default: return event
    }
  }

  /// Since when the key of a step that moves money may have been used, though the log says that it was requested later; nil if it is
  /// new for certain.
  ///
  /// A payment is settled once, so the doubt never ends. A payment can have any number of refunds. Once the PSP has forgotten every
  /// key that was lost, a request is for one more; before, it may be for one that was lost, whatever a person has found out about
  /// others of the payment.
  ///
  /// - Parameters:
  ///   - request: the event that requests the step.
  ///   - first: the payment's first event.
  ///   - keyLifetime: how long the PSP keeps a key; nil for ever.
  func lostUse(of step: PaymentStep, _ request: Event, in first: Event, keyLifetime: Duration?) -> StepTrace.Asked? {
    guard step == .settle || step == .refund else { return nil }
    let doubtful = all.filter { restoration in
      guard first.offset < restoration.events, request.offset >= restoration.events else { return false }
      guard step == .refund, let keyLifetime else { return true }
      return request.timestampMicroseconds.since(restoration.microseconds) <= keyLifetime
    }
    return doubtful.min { $0.lastMicroseconds < $1.lastMicroseconds }
      .map { .init(offset: $0.events - 1, microseconds: $0.lastMicroseconds) }
  }
}

extension UInt64 {
  /// Of two times in microseconds; zero if this one is earlier.
  fileprivate func since(_ earlier: UInt64) -> Duration {
    self < earlier ? .zero : .microseconds(Int64(clamping: self - earlier))
  }
}

/// Holds the restorations for all copies of a ``PaymentLog``. Safe to use from any thread.
final class KnownRestorations: Sendable {
  private let restorations = Mutex(LogRestorations())

  var current: LogRestorations {
    get { restorations.withLock { $0 } }
    set { restorations.withLock { $0 = newValue } }
  }
}
