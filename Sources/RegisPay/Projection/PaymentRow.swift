/// A payment as lists show it: what the projection keeps of it.
public struct PaymentRow: Sendable, Hashable {
  public var id: PaymentID
  public var money: Money
  public var status: PaymentStatus
  /// The PSP's.
  public var reference: String?
  /// What has gone back.
  public var refunded: Money
  /// What was asked back and has no outcome yet.
  public var refunding: Money
  /// Of its stream.
  public var version: UInt64
  /// Where the payment begins in the log: payments in the order in which they came.
  public var offset: UInt64
  public var createdMicroseconds: UInt64
  public var updatedMicroseconds: UInt64
  /// Where it ended, was given up or can't be told, and why; nil while all is well.
  public var trouble: Trouble?
  /// What waits for a time, the next to be tried first.
  public var delays: [Delay]

  /// How much of a payment has gone back, as lists are filtered by it.
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
    trouble = Self.trouble(of: payment)
    delays = payment.delays.sorted { $0.untilMicroseconds < $1.untilMicroseconds }
  }

  init(
    id: PaymentID, money: Money, status: PaymentStatus, reference: String?, refunded: Money, refunding: Money,
    version: UInt64, offset: UInt64, createdMicroseconds: UInt64, updatedMicroseconds: UInt64, trouble: Trouble?,
    delays: [Delay]
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
    self.delays = delays
  }

  private static func trouble(of payment: Payment) -> Trouble? {
    if case .declined(let step, let reason) = payment.state { return Trouble(step: step, reason: reason) }
    // The first of what is unknown, each of which is resolved by itself, or of what was given up: a retry takes up all.
    return (payment.unknown.first ?? payment.parked.first).map {
      Trouble(step: $0.work.step, refund: $0.work.refund, reason: $0.reason)
    }
  }
}
