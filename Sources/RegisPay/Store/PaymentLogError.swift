import LogStore

/// Why a payment could not be read or appended to.
public enum PaymentLogError: Error, Sendable, CustomStringConvertible {
  /// The payment could not be read.
  case store(LogStoreError)
  /// The command was decided, and its events could not be appended.
  case append(LogStoreError)
  /// The stream's events do not make a payment.
  case illegal(PaymentID, version: UInt64, IllegalTransition)
  case missing(PaymentID)
  /// Another request has used the key first; nothing was appended.
  case requestTaken
  /// The log was repaired, and these versions of the payment's stream could not be saved.
  case incomplete(PaymentID, missing: ClosedRange<UInt64>)
  /// Some of the payment's events can't be read: the log is damaged there.
  case damaged(PaymentID, Damage)
  /// The payment has an event that this program doesn't know, so it refuses commands.
  case newerEvent(PaymentID, PaymentLog.NewerEvent)

  /// Whether the same operation may succeed later: the payment's own events are not at fault.
  public var isTransient: Bool {
    switch self {
    case .store, .append, .requestTaken: true
    case .illegal, .missing, .incomplete, .damaged, .newerEvent: false
    }
  }

  public var description: String {
    switch self {
    case .store(let error), .append(let error): error.description
    case .illegal(let id, let version, let error): "version \(version) of payment \(id) is not possible: \(error)"
    case .missing(let id): "there is no payment \(id)"
    case .requestTaken: "another request has the same key"
    case .incomplete(let id, let missing):
      "versions \(missing.lowerBound) to \(missing.upperBound) of payment \(id) were lost when the log was repaired"
    case .damaged(let id, let damage): "payment \(id) is incomplete: \(damage)"
    case .newerEvent(let id, let event):
      "version \(event.version) of payment \(id) is of a newer program: \(event.reason)"
    }
  }
}
