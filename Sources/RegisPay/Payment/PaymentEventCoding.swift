/// Why an event's type or payload can't be read. Readers skip and count such an event; nothing after it is lost.
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
  /// The names of the event types on the log.
  public enum TypeName: String, Sendable, CaseIterable {
    case initiated = "PaymentInitiated"
    case created = "PaymentCreated"
    case settled = "PaymentSettled"
    case completed = "PaymentCompleted"
    case declined = "PaymentDeclined"
    case cancellationRequested = "PaymentCancellationRequested"
    case cancellationRefused = "PaymentCancellationRefused"
    case cancelled = "PaymentCancelled"
    case failed = "PaymentFailed"
    case delayed = "PaymentDelayed"
    case retried = "PaymentRetried"
    case refundRequested = "PaymentRefundRequested"
    case refunded = "PaymentRefunded"
    case refundDeclined = "PaymentRefundDeclined"
    case refundFailed = "PaymentRefundFailed"
    case outcomeUnknown = "PaymentOutcomeUnknown"
    case outcomeResolved = "PaymentOutcomeResolved"

    /// Whether an event of this type can request this step. If not, its payload need not be read.
    func mayRequest(_ step: PaymentStep) -> Bool {
      switch self {
      case .initiated: step == .create
      case .created, .cancellationRefused: step == .settle
      case .settled: step == .notify
      case .cancellationRequested: step == .cancel
      case .refundRequested: step == .refund
      case .retried: true
      case .completed, .declined, .cancelled, .failed, .delayed, .refunded, .refundDeclined, .refundFailed,
        .outcomeUnknown, .outcomeResolved:
        false
      }
    }
  }

  public var typeName: TypeName {
    switch self {
    case .initiated: .initiated
    case .created: .created
    case .settled: .settled
    case .completed: .completed
    case .declined: .declined
    case .cancellationRequested: .cancellationRequested
    case .cancellationRefused: .cancellationRefused
    case .cancelled: .cancelled
    case .failed: .failed
    case .delayed: .delayed
    case .retried: .retried
    case .refundRequested: .refundRequested
    case .refunded: .refunded
    case .refundDeclined: .refundDeclined
    case .refundFailed: .refundFailed
    case .outcomeUnknown: .outcomeUnknown
    case .outcomeResolved: .outcomeResolved
    }
  }

  /// The type's name on the log.
  public var type: String { typeName.rawValue }

  /// The event's data: a JSON object, amounts as exact decimals.
  public var payload: [UInt8] { data.bytes }

  private var data: JSONValue {
    switch self {
    case .initiated(let id, let money):
      [
        "paymentId": .string(id.description), "amount": .number(money.decimal),
        "currency": .string(money.currency.code),
      ]
    case .created(let reference): ["paymentReference": .string(reference)]
    case .settled, .completed, .cancelled, .cancellationRequested: [:]
    case .cancellationRefused(let reason): ["reason": .string(reason)]
    case .declined(let step, let reason): ["step": .string(step.rawValue), "reason": .string(reason)]
    case .failed(let step, let reason, let mayHaveHappened):
      [
        "step": .string(step.rawValue), "reason": .string(reason), "mayHaveHappened": .bool(mayHaveHappened),
      ]
    case .delayed(let delay):
      .object(
        Self.members(delay.work.step, delay.work.refund) + [
          .init("until", .integer(delay.untilMicroseconds)), .init("attempts", .integer(delay.attempts)),
          .init("ownFailures", .integer(delay.ownFailures)), .init("reason", .string(delay.reason)),
          .init("mayHaveHappened", .bool(delay.mayHaveHappened)), .init("unanswered", .bool(delay.didTimeOut)),
        ] + (delay.beganMicroseconds.map { [.init("began", .integer($0))] } ?? []))
    case .retried(let step, let refund): .object(Self.members(step, refund))
    case .refundRequested(let number, let amount):
      [
        "refund": .integer(number), "amount": .number(amount.decimal), "currency": .string(amount.currency.code),
      ]
    case .refunded(let number): ["refund": .integer(number)]
    case .refundDeclined(let number, let reason): ["refund": .integer(number), "reason": .string(reason)]
    case .refundFailed(let number, let reason, let mayHaveHappened):
      ["refund": .integer(number), "reason": .string(reason), "mayHaveHappened": .bool(mayHaveHappened)]
    case .outcomeUnknown(let work, let reason):
      .object(Self.members(work.step, work.refund) + [.init("reason", .string(reason))])
    case .outcomeResolved(let work, let happened):
      .object(Self.members(work.step, work.refund) + [.init("happened", .bool(happened))])
    }
  }

  private static func members(_ step: PaymentStep, _ refund: Int?) -> [JSONValue.Member] {
    [.init("step", .string(step.rawValue))] + (refund.map { [.init("refund", .integer($0))] } ?? [])
  }

  /// Reads an event from the log. Ignores unknown members, as a later version may add some.
  public init(type: String, payload: [UInt8]) throws(PaymentEventError) {
    guard let name = TypeName(rawValue: type) else { throw .unknownType(type) }
    let data: JSONValue
    do {
      data = try JSONReader.read(payload)
    } catch {
      throw .unreadable(type: type, reason: error.description)
    }
    let fields = Fields(type: type, data: data)
    switch name {
    case .initiated:
      guard let id = PaymentID(try fields.text("paymentId")) else {
        throw .unreadable(type: type, reason: "no UUID paymentId")
      }
      self = .initiated(id, try fields.money())
    case .created: self = .created(reference: try fields.text("paymentReference"))
    case .settled: self = .settled
    case .completed: self = .completed
    case .declined: self = .declined(step: try fields.step(), reason: try fields.text("reason"))
    case .cancellationRequested: self = .cancellationRequested
    case .cancellationRefused: self = .cancellationRefused(reason: try fields.text("reason"))
    case .cancelled: self = .cancelled
    case .failed:
      self = .failed(
        step: try fields.step(), reason: try fields.text("reason"), mayHaveHappened: try fields.mayHaveHappened())
    case .retried:
      let step = try fields.step()
      self = .retried(step, refund: step == .refund ? try fields.refund() : nil)
    case .delayed:
      self = .delayed(
        Delay(
          try fields.work(), untilMicroseconds: try fields.number("until"), attempts: try fields.number("attempts"),
          ownFailures: try fields.number("ownFailures"), reason: try fields.text("reason"),
          mayHaveHappened: try fields.mayHaveHappened(), didTimeOut: try fields.didTimeOut(),
          beganMicroseconds: try fields.began()))
    case .refundRequested: self = .refundRequested(try fields.refund(), try fields.money())
    case .refunded: self = .refunded(try fields.refund())
    case .refundDeclined: self = .refundDeclined(try fields.refund(), reason: try fields.text("reason"))
    case .refundFailed:
      self = .refundFailed(
        try fields.refund(), reason: try fields.text("reason"), mayHaveHappened: try fields.mayHaveHappened())
    case .outcomeUnknown: self = .outcomeUnknown(try fields.work(), reason: try fields.text("reason"))
    case .outcomeResolved: self = .outcomeResolved(try fields.work(), happened: try fields.flag("happened"))
    }
  }
}

/// Reads and checks the members of an event's data.
private struct Fields {
  let type: String
  let data: JSONValue

  func text(_ key: String) throws(PaymentEventError) -> String {
    guard let text = data[key]?.text else { throw .unreadable(type: type, reason: "no text \(key)") }
    return text
  }

  func step() throws(PaymentEventError) -> PaymentStep {
    guard let step = PaymentStep(rawValue: try text("step")) else {
      throw .unreadable(type: type, reason: "unknown step")
    }
    return step
  }

  func work() throws(PaymentEventError) -> PaymentWork {
    let step = try step()
    guard step == .refund else { return PaymentWork(step) }
    return PaymentWork(refund: try refund())
  }

  func number<Number: FixedWidthInteger>(_ key: String) throws(PaymentEventError) -> Number {
    guard case .number(let text) = data[key], let number = Number(text), number >= 0 else {
      throw .unreadable(type: type, reason: "no number \(key)")
    }
    return number
  }

  func flag(_ key: String) throws(PaymentEventError) -> Bool {
    guard case .bool(let flag) = data[key] else {
      throw .unreadable(type: type, reason: "\(key) is neither true nor false")
    }
    return flag
  }

  /// Earlier versions don't write it: a try may have happened.
  func mayHaveHappened() throws(PaymentEventError) -> Bool {
    data["mayHaveHappened"] == nil ? true : try flag("mayHaveHappened")
  }

  func began() throws(PaymentEventError) -> UInt64? {
    data["began"] == nil ? nil : try number("began")
  }

  func didTimeOut() throws(PaymentEventError) -> Bool {
    data["unanswered"] == nil ? true : try flag("unanswered")
  }

  func refund() throws(PaymentEventError) -> Int {
    guard case .number(let text) = data["refund"], let number = Int(text), number > 0 else {
      throw .unreadable(type: type, reason: "no number of a refund")
    }
    return number
  }

  func money() throws(PaymentEventError) -> Money {
    let code = try text("currency")
    guard let currency = Currency.named(code) else {
      throw .unreadable(type: type, reason: "unknown currency \(code.debugDescription)")
    }
    guard case .number(let text) = data["amount"], let number = DecimalText(text),
      let money = try? Money(number, currency: currency)
    else { throw .unreadable(type: type, reason: "no exact amount in \(currency)") }
    return money
  }
}
