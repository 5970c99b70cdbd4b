import LogStore
import Synchronization

/// The last restoration of the payments log from a backup, as an event on the log says.
///
/// Between the backup and the restoration, payments may have done what the restored log doesn't know. So nothing that it says about a
/// step proves any more that the step was never tried: a parked step may have been released and carried out, and a refund that is
/// requested now may have the number, and so the idempotency key, of one that was lost.
struct LogRestoration: Sendable, Hashable {
  static let stream = "restorations"
  static let eventType = "PaymentsLogRestored"

  /// The log's end after the restoration: earlier events came from the backup.
  var events: UInt64
  /// When the last of them was appended, by the log's time: what was lost is not older.
  var lastMicroseconds: UInt64
  /// When the restored log was first opened, by the log's time: what was lost is older.
  var microseconds: UInt64

  /// The last one; nil if the log was never restored. Blocks for some reads.
  static func last(on log: PaymentLog) throws(LogStoreError) -> LogRestoration? {
    // Passes over damage: the log's other events are served, too.
    let events = try log.follower.lookUp { reader throws(LogStoreError) in
      try reader.stream(stream, skippingMissing: true, endsWithTask: false)
    }
    return events.last { $0.type == eventType }.flatMap(LogRestoration.init)
  }

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

  /// Nil for an event of a newer program that can't be read.
  private init?(_ event: Event) {
    guard let data = try? JSONReader.read(event.payload), case .number(let events) = data["events"],
      case .number(let last) = data["lastMicroseconds"], let events = UInt64(events), let last = UInt64(last)
    else { return nil }
    (self.events, lastMicroseconds, microseconds) = (events, last, event.timestampMicroseconds)
  }

  /// The event that says so.
  var event: NewEvent {
    let payload: JSONValue = ["events": .integer(events), "lastMicroseconds": .integer(lastMicroseconds)]
    return NewEvent(stream: Self.stream, type: Self.eventType, payload: payload.bytes)
  }

  // MARK: - What it means for a payment

  /// What an event still proves.
  func weakened(_ event: PaymentEvent, at offset: UInt64) -> PaymentEvent {
    guard offset < events else { return event }
    switch event {
    case .failed(let step, let reason, mayHaveHappened: false):
      return .failed(step: step, reason: reason, mayHaveHappened: true)
    case .refundFailed(let number, let reason, mayHaveHappened: false):
      return .refundFailed(number, reason: reason, mayHaveHappened: true)
    default: return event
    }
  }

  /// Where the key of a requested refund may have been used before; nil if it is new for certain: the payment is newer than the backup,
  /// a person has looked since what the PSP has of its refunds, or the PSP has forgotten every key that was lost.
  ///
  /// - Parameters:
  ///   - request: the event that requests the refund.
  ///   - stream: the payment's events up to it, or more.
  ///   - keyLifetime: how long the PSP keeps a key; nil for ever.
  func lostUse(of request: Event, in stream: [Event], keyLifetime: Duration?) -> StepTrace.Asked? {
    guard request.offset >= events, let first = stream.first, first.offset < events else { return nil }
    if let keyLifetime, let since = request.timestampMicroseconds.durationSince(microseconds), since > keyLifetime {
      return nil
    }
    let isLookedAt = stream.contains { event in
      guard event.offset >= events, event.offset < request.offset,
        event.type == PaymentEvent.TypeName.outcomeResolved.rawValue,
        case .outcomeResolved(let work, _)? = try? PaymentEvent(type: event.type, payload: event.payload)
      else { return false }
      return work.step == .refund
    }
    return isLookedAt ? nil : .init(offset: events - 1, microseconds: lastMicroseconds)
  }
}

extension UInt64 {
  /// Of two times in microseconds; nil if this one is earlier.
  fileprivate func durationSince(_ earlier: UInt64) -> Duration? {
    self < earlier ? nil : .microseconds(Int64(clamping: self - earlier))
  }
}

/// Holds the last restoration for all copies of a ``PaymentLog``. Safe to use from any thread.
final class KnownRestoration: Sendable {
  private let restoration = Mutex<LogRestoration?>(nil)

  var current: LogRestoration? {
    get { restoration.withLock { $0 } }
    set { restoration.withLock { $0 = newValue } }
  }
}
