/// A payment as the list shows it: a row of the projection.
public struct PaymentRow: Sendable, Hashable {
  public var id: PaymentID
  public var money: Money
  public var status: PaymentStatus
  /// The PSP's id of the payment.
  public var reference: String?
  /// The total of refunds that are done.
  public var refunded: Money
  /// The total of refunds without an outcome.
  public var refunding: Money
  /// Of the payment's stream.
  public var version: UInt64
  /// The offset of the payment's first event: sorts payments by creation.
  public var offset: UInt64
  public var createdMicroseconds: UInt64
  public var updatedMicroseconds: UInt64
  /// The step that was declined, is parked or has an unknown outcome, and why; nil when there is none.
  public var trouble: Trouble?
  /// The number of further steps whose outcome is unknown, beside ``trouble``.
  public var furtherUnknown: Int
  /// Waits on the log, the next to end first.
  public var delays: [Delay]

  /// How much of a payment is refunded, for filters.
  public enum RefundedPart: String, Sendable, Hashable, CaseIterable {
    case none
    case part
    case all
  }

  public var refundedPart: RefundedPart {
    if refunded.minorUnits == 0 { return .none }
    return refunded == money ? .all : .part
  }

  public struct Trouble: Sendable, Hashable {
    public var step: PaymentStep
    /// The refund's number; only with the step `refund`.
    public var refund: Int?
    public var reason: String
  }

  public init(
    _ payment: Payment, version: UInt64, offset: UInt64, createdMicroseconds: UInt64, updatedMicroseconds: UInt64
  ) {
    id = payment.id
    money = payment.money
    status = payment.status
    reference = payment.reference
    refunded = payment.refunded
    refunding = payment.refunding
    self.version = version
    self.offset = offset
    self.createdMicroseconds = createdMicroseconds
    self.updatedMicroseconds = updatedMicroseconds
    let unknown = payment.unknown
    trouble = Self.trouble(of: payment, unknown: unknown.first)
    furtherUnknown = max(unknown.count - 1, 0)
    delays = payment.delays.sorted { $0.untilMicroseconds < $1.untilMicroseconds }
  }

  init(
    id: PaymentID, money: Money, status: PaymentStatus, reference: String?, refunded: Money, refunding: Money,
    version: UInt64, offset: UInt64, createdMicroseconds: UInt64, updatedMicroseconds: UInt64, trouble: Trouble?,
    furtherUnknown: Int, delays: [Delay]
  ) {
    self.id = id
    self.money = money
    self.status = status
    self.reference = reference
    self.refunded = refunded
    self.refunding = refunding
    self.version = version
    self.offset = offset
    self.createdMicroseconds = createdMicroseconds
    self.updatedMicroseconds = updatedMicroseconds
    self.trouble = trouble
    self.furtherUnknown = furtherUnknown
    self.delays = delays
  }

  private static func trouble(of payment: Payment, unknown: (work: PaymentWork, reason: String)?) -> Trouble? {
    if case .declined(let step, let reason) = payment.state { return Trouble(step: step, reason: reason) }
    // The first unknown outcome, as each is resolved by itself; otherwise the first parked step, as a retry releases all.
    return (unknown ?? payment.parked.first).map {
      Trouble(step: $0.work.step, refund: $0.work.refund, reason: $0.reason)
    }
  }
}
