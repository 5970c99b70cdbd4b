import LogStore

/// A charge of the simulated PSP: one for each payment, the state of its stream's events.
struct Charge: Sendable, Hashable {
  enum Status: String, Sendable, Hashable {
    case created
    case settled
    case cancelled
  }

  enum EventType: String {
    case created = "ChargeCreated"
    case settled = "ChargeSettled"
    case cancelled = "ChargeCancelled"
    case refunded = "ChargeRefunded"
  }

  var reference: String
  var idempotencyKey: String?
  var money: Money
  var status: Status
  /// The refunded amount, never more than ``money``.
  var refunded: Money
  var refundCount = 0

  static func stream(_ reference: String) -> String { "charge:\(reference)" }

  /// The amount that can still be refunded.
  var refundable: Money {
    Money(
      minorUnits: status == .settled ? money.minorUnits - refunded.minorUnits : 0, currency: money.currency)
  }

  var json: JSONValue {
    // A key of the form {paymentId}:{step} tells whose payment it is.
    let paymentID = idempotencyKey.flatMap { key in
      key.split(separator: ":", omittingEmptySubsequences: false).first.flatMap { PaymentID(String($0)) }
    }
    return [
      "reference": .string(reference), "idempotencyKey": idempotencyKey.map(JSONValue.string) ?? .null,
      "paymentId": paymentID.map { .string($0.description) } ?? .null, "amount": .number(money.decimal),
      "currency": .string(money.currency.code), "status": .string(status.rawValue),
      "refunded": .number(refunded.decimal), "refunds": .integer(refundCount),
    ]
  }

  init(reference: String, idempotencyKey: String?, money: Money) {
    self.reference = reference
    self.idempotencyKey = idempotencyKey
    self.money = money
    self.status = .created
    self.refunded = Money(minorUnits: 0, currency: money.currency)
  }

  /// The charge that follows from a stream's events; nil when there are none.
  init?(_ events: [Event]) {
    guard let first = events.first, let charge = Charge(first) else { return nil }
    self = charge
    for event in events.dropFirst() { apply(event) }
  }

  /// The charge that an event creates; nil for any other event.
  init?(_ event: Event) {
    guard EventType(rawValue: event.type) == .created, let json = try? JSONReader.read(event.payload),
      let reference = json["reference"]?.text, let money = Self.money(json)
    else { return nil }
    self.init(reference: reference, idempotencyKey: json["idempotencyKey"]?.text, money: money)
  }

  mutating func apply(_ event: Event) {
    switch EventType(rawValue: event.type) {
    case .settled: status = .settled
    case .cancelled: status = .cancelled
    case .refunded:
      guard let json = try? JSONReader.read(event.payload), let amount = Self.money(json) else { return }
      refunded = Money(minorUnits: refunded.minorUnits + amount.minorUnits, currency: money.currency)
      refundCount += 1
    case .created, nil: break
    }
  }

  /// An event of this charge.
  func event(_ type: EventType, _ payload: JSONValue = [:]) -> NewEvent {
    NewEvent(stream: Self.stream(reference), type: type.rawValue, payload: payload.bytes)
  }

  /// The amount in a request or an event; nil when it is missing, not exact or not positive.
  static let moneyRule =
    "amount must be a number above 0 with no more decimals than the currency has, and currency one of "
    + Currency.supported.map(\.code).joined(separator: ", ")

  static func money(_ json: JSONValue) -> Money? {
    guard let currency = json["currency"]?.text.flatMap(Currency.named), case .number(let text) = json["amount"],
      let number = DecimalText(text), let money = try? Money(number, currency: currency), money.minorUnits > 0
    else { return nil }
    return money
  }
}
