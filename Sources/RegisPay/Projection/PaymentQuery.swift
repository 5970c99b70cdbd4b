/// Which payments a page holds, and in which order.
public struct PaymentQuery: Sendable, Hashable {
  public enum Order: String, Sendable, Hashable, CaseIterable {
    case created
    case updated
    /// Minor units, whatever the currency.
    case amount
  }

  public var status: PaymentStatus?
  public var currency: Currency?
  public var refunded: PaymentRow.RefundedPart?
  /// A prefix of the payment's id or of the PSP's reference; nil for all payments.
  public var search: String?
  /// Minor units. The supported currencies have the same number of decimals.
  public var amount: Int64?
  /// Microseconds since 1970.
  public var createdFrom: UInt64?
  /// Microseconds since 1970; payments created before.
  public var createdBefore: UInt64?
  /// Payments whose first event has a lower offset.
  public var belowOffset: UInt64?
  /// Of ``PaymentRow/trouble``.
  public var step: PaymentStep?
  /// Of ``PaymentRow/trouble``: the whole text.
  public var reason: String?
  public var order = Order.created
  public var isDescending = true
  public var limit = 50
  /// The last payment of the previous page; nil for the first page.
  public var after: Key?

  /// The numbers of the payments created in the wanted time and part of the log, once they are known.
  var numbers: Range<Int64>?

  public init() {}

  /// A payment's sort key in an order: unique, and independent of the payments around it.
  public struct Key: Sendable, Hashable {
    public var order: Order
    /// The value to sort by; the offset itself for ``Order/created``.
    public var value: Int64
    /// The offset of the payment's first event; it sorts equal values.
    public var offset: Int64

    init(order: Order, value: Int64, offset: Int64) {
      self.order = order
      self.value = value
      self.offset = offset
    }

    init(_ row: PaymentRow, in order: Order) {
      self.order = order
      offset = Int64(clamping: row.offset)
      value =
        switch order {
        case .created: offset
        case .updated: Int64(clamping: row.updatedMicroseconds)
        case .amount: row.money.minorUnits
        }
    }
  }
}

extension PaymentQuery.Key: LosslessStringConvertible {
  /// Reads what ``description`` writes; nil for any other text. Numbers out of bounds are clamped: they sort before or after every
  /// payment, as the number itself would.
  public init?(_ text: String) {
    let parts = text.split(separator: "_", omittingEmptySubsequences: false)
    guard parts.count == 3, let order = PaymentQuery.Order(rawValue: String(parts[0])),
      let value = Self.number(parts[1]), let offset = Self.number(parts[2]), !parts[2].hasPrefix("-")
    else { return nil }
    self.init(order: order, value: value, offset: offset)
  }

  private static func number(_ text: Substring) -> Int64? {
    let isNegative = text.hasPrefix("-")
    let digits = text.utf8.dropFirst(isNegative ? 1 : 0)
    let isNumber = (1...20).contains(digits.count) && digits.allSatisfy { (0x30...0x39).contains($0) }
    guard isNumber else { return nil }
    return Int64(text) ?? (isNegative ? .min : .max)
  }

  public var description: String { "\(order.rawValue)_\(value)_\(offset)" }
}

extension PaymentQuery {
  /// The most Unicode scalars of a search: as many as a reference has bytes at most.
  public static let searchLimit = 200
  /// The most Unicode scalars of a reason, so that a request's target has room for it.
  public static let reasonLimit = 500
  public static let pageLimit = 200
}
