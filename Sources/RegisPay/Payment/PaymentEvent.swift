/// What can be on a payment's stream.
public enum PaymentEvent: Sendable, Hashable {
  case initiated(PaymentID, Money)
  /// The PSP accepted the payment under its own reference.
  case created(reference: String)
  case settled
  /// The customer was notified; nothing is left to do.
  case completed
  /// Given up at a step, with a reason a person can act on; never with a secret in it.
  case failed(step: PaymentStep, reason: String)
}

/// What has to be done for a payment, each step by a call to somebody else.
public enum PaymentStep: String, Sendable, Hashable, CaseIterable {
  case create
  case settle
  case notify
}

/// Why an event's type or payload can't be read. It is skipped and counted; nothing after it is lost.
public enum PaymentEventError: Error, Sendable, Hashable, CustomStringConvertible {
  case unknownType(String)
  case unreadable(type: String, reason: String)

  public var description: String {
    switch self {
    case .unknownType(let type): "unknown event type \(type.debugDescription)"
    case .unreadable(let type, let reason): "unreadable payload of \(type): \(reason)"
    }
  }
}

extension PaymentEvent {
  /// The types' names on the log.
  public enum TypeName {
    public static let initiated = "PaymentInitiated"
    public static let created = "PaymentCreated"
    public static let settled = "PaymentSettled"
    public static let completed = "PaymentCompleted"
    public static let failed = "PaymentFailed"
  }

  /// The type's name on the log.
  public var type: String {
    switch self {
    case .initiated: TypeName.initiated
    case .created: TypeName.created
    case .settled: TypeName.settled
    case .completed: TypeName.completed
    case .failed: TypeName.failed
    }
  }

  /// The event's data: a JSON object, amounts as exact decimals.
  public var payload: [UInt8] {
    let value: JSONValue =
      switch self {
      case .initiated(let id, let money):
        [
          "paymentId": .string(id.description), "amount": .number(money.decimal),
          "currency": .string(money.currency.code),
        ]
      case .created(let reference): ["paymentReference": .string(reference)]
      case .settled, .completed: [:]
      case .failed(let step, let reason): ["step": .string(step.rawValue), "reason": .string(reason)]
      }
    return value.bytes
  }

  /// Reads an event back from the log. Members it does not know are ignored, as a later version may add some.
  public init(type: String, payload: [UInt8]) throws(PaymentEventError) {
    let data: JSONValue
    do {
      data = try JSONReader.read(payload)
    } catch {
      throw .unreadable(type: type, reason: error.description)
    }
    func text(_ key: String) throws(PaymentEventError) -> String {
      guard let text = data[key]?.text else { throw .unreadable(type: type, reason: "no text \(key)") }
      return text
    }
    switch type {
    case TypeName.initiated:
      guard let id = PaymentID(try text("paymentId")) else {
        throw .unreadable(type: type, reason: "no UUID paymentId")
      }
      self = .initiated(id, try Self.money(data, type: type, currency: try text("currency")))
    case TypeName.created: self = .created(reference: try text("paymentReference"))
    case TypeName.settled: self = .settled
    case TypeName.completed: self = .completed
    case TypeName.failed:
      guard let step = PaymentStep(rawValue: try text("step")) else {
        throw .unreadable(type: type, reason: "unknown step")
      }
      self = .failed(step: step, reason: try text("reason"))
    default: throw .unknownType(type)
    }
  }

  private static func money(_ data: JSONValue, type: String, currency: String) throws(PaymentEventError) -> Money {
    guard let currency = Currency.named(currency) else {
      throw .unreadable(type: type, reason: "unknown currency \(currency.debugDescription)")
    }
    guard case .number(let text) = data["amount"], let number = DecimalText(text),
      let money = try? Money(number, currency: currency)
    else { throw .unreadable(type: type, reason: "no exact amount in \(currency)") }
    return money
  }
}
