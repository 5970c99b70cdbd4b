import LogStore

/// A cache of the payments with recent events: the next event of each is applied without reading its stream. Other payments are
/// read from the log. Its size is bounded.
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

  /// Payments of a generation; there are at most two generations.
  private static let generation = 10_000

  private let log: PaymentLog
  private var young: [PaymentID: Known] = [:]
  private var old: [PaymentID: Known] = [:]

  init(log: PaymentLog) {
    self.log = log
  }

  var count: Int { young.count + old.count }

  /// The payment after an event. Nil if the event belongs to no payment, was applied before, or is one of a payment that can't be
  /// read completely: the list shows such a payment as last known, and the log's ``DamageStatus`` notes it.
  ///
  /// Others count and log unreadable and impossible events.
  ///
  /// - Throws: when the payment can't be read now: the caller passes the event again.
  mutating func take(_ event: Event) throws(LogStoreError) -> PaymentRow? {
    guard let id = PaymentID(stream: event.stream) else { return nil }
    guard var known = young[id] ?? old[id] else { return try begin(id, event) }
    guard event.version > known.version else { return nil }
    guard event.version == known.version + 1 else {
      log.damage.note(
        id, .incomplete, reason: "versions \(known.version + 1) to \(event.version - 1) of it can't be read")
      return nil
    }
    do throws(PaymentEventError) {
      let change = try PaymentEvent(type: event.type, payload: event.payload)
      // Loading the payment reports an impossible event.
      try? known.payment.apply(change)
    } catch {
      log.damage.note(id, .newerEvent, reason: error.description)
    }
    known.version = event.version
    known.updatedMicroseconds = event.timestampMicroseconds
    keep(known)
    return known.row
  }

  private mutating func begin(_ id: PaymentID, _ event: Event) throws(LogStoreError) -> PaymentRow? {
    if event.version == 1, let first = try? PaymentEvent(type: event.type, payload: event.payload),
      let payment = try? Payment(first)
    {
      let known = Known(
        payment: payment, version: 1, offset: event.offset, createdMicroseconds: event.timestampMicroseconds,
        updatedMicroseconds: event.timestampMicroseconds)
      keep(known)
      return known.row
    }
    // Loads the payment as of now: its events up to there are then ignored as applied.
    let found: PaymentLog.Loaded?
    do throws(PaymentLogError) {
      found = try log.load(id)
    } catch .store(let error) {
      throw error
    } catch {
      // Loading has noted the reason.
      return nil
    }
    guard let loaded = found, let first = loaded.events.first, let last = loaded.events.last else { return nil }
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
