import LogStore
import Logging

/// A charge that the simulated PSP made: one for each payment of its own.
struct Charge: Sendable, Hashable {
  enum Status: String, Sendable, Hashable {
    case created
    case settled
  }

  static let createdType = "ChargeCreated"
  static let settledType = "ChargeSettled"

  var reference: String
  var idempotencyKey: String?
  var money: Money
  var status: Status

  static func stream(_ reference: String) -> String { "charge:\(reference)" }

  var json: JSONValue {
    // A key of the form {paymentId}:{step} tells whose payment it is.
    let paymentID = idempotencyKey.flatMap { key in
      key.split(separator: ":", omittingEmptySubsequences: false).first.flatMap { PaymentID(String($0)) }
    }
    return [
      "reference": .string(reference), "idempotencyKey": idempotencyKey.map(JSONValue.string) ?? .null,
      "paymentId": paymentID.map { .string($0.description) } ?? .null, "amount": .number(money.decimal),
      "currency": .string(money.currency.code), "status": .string(status.rawValue),
    ]
  }

  init(reference: String, idempotencyKey: String?, money: Money, status: Status) {
    self.reference = reference
    self.idempotencyKey = idempotencyKey
    self.money = money
    self.status = status
  }

  /// Reads back what ``json`` wrote.
  init?(_ json: JSONValue) {
    guard let reference = json["reference"]?.text, case .number(let text) = json["amount"],
      let number = DecimalText(text), let currency = json["currency"]?.text.flatMap(Currency.named),
      let money = try? Money(number, currency: currency),
      let status = json["status"]?.text.flatMap(Status.init(rawValue:))
    else { return nil }
    self.init(reference: reference, idempotencyKey: json["idempotencyKey"]?.text, money: money, status: status)
  }
}

/// All charges of the simulator, in the order they were made: a projection of its log, in memory, that grows with the
/// number of charges. It follows the log from the start on beside everything else, so nothing waits for it but who asks.
actor Ledger {
  private let reader: LogReader
  private var place: UInt64 = 0
  private var charges: [Charge] = []
  private var indices: [String: Int] = [:]

  init(reader: LogReader) { self.reader = reader }

  /// Follows the log until its task is cancelled.
  func run(logger: Logger) async {
    while !Task.isCancelled {
      do {
        try await catchUp(to: reader.endOffset)
        _ = try await reader.waitForEvents(at: place)
      } catch {
        if case .closed = error { return }
        logger.error("the ledger can't follow the simulator's log", metadata: ["error": "\(error)"])
        try? await Task.sleep(for: .seconds(5))
      }
    }
  }

  /// Every charge that was made before the call.
  func all() async throws(LogStoreError) -> [Charge] {
    try await catchUp(to: reader.endOffset)
    return charges
  }

  private func catchUp(to end: UInt64) async throws(LogStoreError) {
    while place < end {
      let events = try reader.events(from: place, limit: 256)
      guard !events.isEmpty else { return }
      place = events.last.map { $0.offset + 1 } ?? place
      for event in events { take(event) }
      // A long log is read at the start; others may ask in between.
      await Task.yield()
    }
  }

  private func take(_ event: Event) {
    switch event.type {
    case Charge.createdType:
      guard let json = try? JSONReader.read(event.payload), let charge = Charge(json) else { return }
      indices[event.stream] = charges.count
      charges.append(charge)
    case Charge.settledType:
      if let index = indices[event.stream] { charges[index].status = .settled }
    default: break
    }
  }
}
