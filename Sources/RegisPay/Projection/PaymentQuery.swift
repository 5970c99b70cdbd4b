/// Which payments a page is to have, and in which order.
public struct PaymentQuery: Sendable, Hashable {
  public enum Order: String, Sendable, Hashable, CaseIterable {
    case created
    case updated
    /// Minor units, whatever the currency.
    case amount
  }

  public var status: PaymentStatus?
  public var currency: Currency?
  /// The beginning of a payment's id, or of the PSP's reference; nil for all.
  public var search: String?
  public var order = Order.created
  public var isDescending = true
  public var limit = 50
  /// The last payment of the page before; nil for the first page.
  public var after: Key?

  public init() {}

  /// A payment's place in an order: unique, and the same however many payments come or go before it.
  public struct Key: Sendable, Hashable {
    public var order: Order
    /// What is ordered by; the offset itself for ``Order/created``.
    public var value: Int64
    /// Where the payment begins in the log, among equal values.
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
  /// Reads what ``description`` writes; nil for anything else.
  public init?(_ text: String) {
    let parts = text.split(separator: "_", omittingEmptySubsequences: false)
    guard parts.count == 3, let order = PaymentQuery.Order(rawValue: String(parts[0])), let value = Int64(parts[1]),
      let offset = Int64(parts[2]), offset >= 0
    else { return nil }
    self.init(order: order, value: value, offset: offset)
    guard description == text else { return nil }
  }

  public var description: String { "\(order.rawValue)_\(value)_\(offset)" }
}

extension PaymentQuery {
  /// Unicode scalars of a search: as many as a reference has bytes at most.
  public static let searchLimit = 200
  public static let pageLimit = 200
}
