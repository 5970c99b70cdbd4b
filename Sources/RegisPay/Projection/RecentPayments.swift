import LogStore

/// The payments that events were seen of lately, so that the next event of each can be applied without reading its
/// stream. Others are read from the log. Bounded, whatever passes.
struct RecentPayments {
  private struct Known {
    var payment: Payment
    var version: UInt64
    var offset: UInt64
    var createdMicroseconds: UInt64
    var updatedMicroseconds: UInt64

    var row: PaymentRow {
      PaymentRow(
        payment, version: version, offset: offset, createdMicroseconds: createdMicroseconds,
        updatedMicroseconds: updatedMicroseconds)
    }
  }

  /// Payments of a generation; at most two are kept.
  private static let generation = 10_000

  private let log: PaymentLog
  private var young: [PaymentID: Known] = [:]
  private var old: [PaymentID: Known] = [:]

  init(log: PaymentLog) {
    self.log = log
  }

  var count: Int { young.count + old.count }

  /// The payment as it stands after an event; nil if the event is of none, or was applied already.
  ///
  /// What can't be read or can't be is counted and logged by others.
  mutating func take(_ event: Event) -> PaymentRow? {
    guard let id = PaymentID(stream: event.stream) else { return nil }
    guard var known = young[id] ?? old[id] else { return begin(id, event) }
    guard event.version > known.version else { return nil }
    if let change = try? PaymentEvent(type: event.type, payload: event.payload) { try? known.payment.apply(change) }
    known.version = event.version
    known.updatedMicroseconds = event.timestampMicroseconds
    keep(known)
    return known.row
  }

  private mutating func begin(_ id: PaymentID, _ event: Event) -> PaymentRow? {
    if event.version == 1, let first = try? PaymentEvent(type: event.type, payload: event.payload),
      let payment = try? Payment(first)
    {
      let known = Known(
        payment: payment, version: 1, offset: event.offset, createdMicroseconds: event.timestampMicroseconds,
        updatedMicroseconds: event.timestampMicroseconds)
      keep(known)
      return known.row
    }
    // Told up to now; its events on the way here are then passed over.
    guard let loaded = try? log.load(id), let first = loaded.events.first, let last = loaded.events.last else {
      return nil
    }
    let known = Known(
      payment: loaded.payment, version: loaded.version, offset: first.offset,
      createdMicroseconds: first.timestampMicroseconds, updatedMicroseconds: last.timestampMicroseconds)
    keep(known)
    return known.row
  }

  private mutating func keep(_ known: Known) {
    young[known.payment.id] = known
    guard young.count >= Self.generation else { return }
    old = young
    young = [:]
  }
}
