import LogStore

extension PaymentEvent.TypeName {
  /// The type's name in messages. It never changes, because receivers depend on it.
  var publicName: String {
    switch self {
    case .initiated: "payment.initiated"
    case .created: "payment.created"
    case .settled: "payment.settled"
    case .completed: "payment.completed"
    case .declined: "payment.declined"
    case .cancellationRequested: "payment.cancelling"
    case .cancellationRefused: "payment.cancellation_refused"
    case .cancelled: "payment.cancelled"
    case .failed: "payment.failed"
    case .delayed: "payment.delayed"
    case .retried: "payment.retried"
    case .refundRequested: "payment.refund_requested"
    case .refunded: "payment.refunded"
    case .refundDeclined: "payment.refund_declined"
    case .refundFailed: "payment.refund_failed"
    case .outcomeUnknown: "payment.outcome_unknown"
    case .outcomeResolved: "payment.outcome_resolved"
    }
  }

  init?(publicName: String) {
    guard let type = Self.allCases.first(where: { $0.publicName == publicName }) else { return nil }
    self = type
  }
}

/// The message about one event. It shows the payment as of that event, so every try sends the same bytes.
struct WebhookMessage: Sendable, Hashable {
  let id: String
  let type: String
  let body: [UInt8]
  /// Sent with the message; not a part of it.
  private(set) var trace: TraceContext?

  static let testType = "webhook.test"
  private static let prefix = "msg_"

  /// Nil for an event that no endpoint gets.
  ///
  /// - Throws: when the payment can't be read.
  init?(_ event: Event, log: PaymentLog, tracing: Tracing = .init()) throws(PaymentLogError) {
    guard let type = PaymentEvent.TypeName(rawValue: event.type), let payment = PaymentID(stream: event.stream),
      let loaded = try log.load(payment, upTo: event.version), let first = loaded.events.first
    else { return nil }
    let row = PaymentRow(
      loaded.payment, version: event.version, offset: first.offset,
      createdMicroseconds: first.timestampMicroseconds, updatedMicroseconds: event.timestampMicroseconds)
    var data = PaymentJSON.members(of: row, waiting: nil)
    if let number = Self.refundNumber(event), let refund = loaded.payment.refund(number) {
      data.append(.init("refund", PaymentJSON.refund(refund)))
    }
    self.init(
      id: Self.id(of: payment, version: event.version), type: type.publicName,
      microseconds: event.timestampMicroseconds, data: data)
    trace = tracing.context(ofLastEventOf: loaded)
  }

  /// A message that only tests whether the endpoint responds.
  init(testOf endpoint: String, microseconds: UInt64) {
    self.init(
      id: "\(Self.prefix)\(EventID.random())", type: Self.testType, microseconds: microseconds,
      data: [.init("webhookId", .string(endpoint))])
  }

  private init(id: String, type: String, microseconds: UInt64, data: [JSONValue.Member]) {
    self.id = id
    self.type = type
    body =
      JSONValue.object([
        .init("type", .string(type)), .init("timestamp", .string(timestamp(microseconds: microseconds))),
        .init("data", .object(data)),
      ]).bytes
  }

  private static func refundNumber(_ event: Event) -> Int? {
    switch try? PaymentEvent(type: event.type, payload: event.payload) {
    case .refundRequested(let number, _), .refunded(let number), .refundDeclined(let number, _),
      .refundFailed(let number, _, _):
      number
    case .outcomeUnknown(let work, _), .outcomeResolved(let work, _): work.refund
    case .retried(_, let number): number
    default: nil
    }
  }

  /// Consists of the payment and its version, not of the offset: a log restored from a backup assigns offsets again, and a
  /// receiver that remembers ids would take a new event for one that it has seen. It has no dot, because dots separate the
  /// signed parts.
  static func id(of payment: PaymentID, version: UInt64) -> String { "\(prefix)\(payment)_\(version)" }

  /// How the ids of all messages about a payment begin.
  static func idPrefix(of payment: PaymentID) -> String { "\(prefix)\(payment)_" }

  /// The payment and version of a message's id; nil for any other text.
  static func paymentAndVersion(of id: String) -> (payment: PaymentID, version: UInt64)? {
    guard id.hasPrefix(prefix) else { return nil }
    let parts = id.dropFirst(prefix.count).split(separator: "_", omittingEmptySubsequences: false)
    guard parts.count == 2, let payment = PaymentID(String(parts[0])), let version = UInt64(parts[1]), version > 0,
      self.id(of: payment, version: version) == id
    else { return nil }
    return (payment, version)
  }
}
