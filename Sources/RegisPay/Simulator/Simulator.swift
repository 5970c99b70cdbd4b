import LogStore
import Logging
import Synchronization

/// A payment service provider and a notification service to try things with. It keeps what it did on a log of its own,
/// so that a killed and restarted simulator still knows every key and every charge.
///
/// Each idempotency key has a stream, written in the same append as its effect and only if the stream is new: the
/// first of many equal requests wins, also when they come at once. Safe to use from any task.
public final class Simulator: Sendable {
  public struct Answer: Sendable, Hashable {
    public var status: Int
    public var body: JSONValue
    /// Seconds.
    public var retryAfter: Int?
  }

  let store: LogStore
  /// Reads the log, and tells what of it can't be read.
  let follower: LogFollower
  private let isFailing = Atomic<Bool>(false)
  /// Not kept over a restart.
  private let faults: Mutex<[Service: Faults]>

  enum Service: Sendable {
    case psp, notifications
  }

  /// Bytes of a key, so that its stream's name fits.
  private static let keyLimit = 200

  /// - Parameter logger: tells of damage that is met.
  public init(store: LogStore, logger: Logger? = nil) {
    self.store = store
    follower = LogFollower(store.reader, DamageStatus(store.reader, name: "simulator", logger: logger))
    faults = Mutex([:])
  }

  func faults(of service: Service) -> Faults { faults.withLock { $0[service] ?? Faults() } }

  func setFaults(_ new: Faults, of service: Service) { faults.withLock { $0[service] = new } }

  /// Makes every call fail with 500, or ends that.
  ///
  /// - Returns: whether calls fail now.
  func toggleErrors() -> Bool {
    // Flipped atomically, so that two toggles at once are two.
    var seen = isFailing.load(ordering: .relaxed)
    while true {
      let (exchanged, original) = isFailing.weakCompareExchange(expected: seen, desired: !seen, ordering: .relaxed)
      if exchanged { return !seen }
      seen = original
    }
  }

  /// Non-nil while every call fails.
  var outage: Answer? {
    isFailing.load(ordering: .relaxed) ? Answer(status: 500, body: ["error": "errors are switched on"]) : nil
  }

  /// `POST /psp/api/payments/create`: makes a payment, and with it a charge.
  func createPayment(key: String?, body: JSONValue) async throws(LogStoreError) -> Answer {
    guard let money = Charge.money(body) else {
      return Answer(status: 400, body: ["error": "amount and currency are required"])
    }
    let faults = faults(of: .psp)
    if let failure = failure(money, faults) { return failure }
    return try await answerOnce(key: key, request: "create \(money)") { () throws(LogStoreError) in
      if faults.declines(money, randomness: .random(in: 0..<1)) {
        return Effect(answer: Answer(status: 402, body: ["error": "declined"]))
      }
      let charge = Charge(reference: EventID.random().description, idempotencyKey: key, money: money)
      return Effect(
        answer: Answer(status: 202, body: ["paymentId": .string(charge.reference)]),
        events: [charge.event(.created, charge.json)], conditions: [Charge.stream(charge.reference): .noStream])
    }
  }

  private func failure(_ money: Money, _ faults: Faults) -> Answer? {
    faults.failure(of: money, randomness: .random(in: 0..<1)).map { Self.failure($0, faults) }
  }

  static func failure(_ status: Int, _ faults: Faults) -> Answer {
    Answer(status: status, body: ["error": "a fault was asked for"], retryAfter: faults.retryAfter)
  }

  /// `POST /psp/api/payments/{reference}/settle`.
  func settlePayment(reference: String, key: String?) async throws(LogStoreError) -> Answer {
    try await change(reference, key: key, request: "settle \(reference)") { charge in
      switch charge.status {
      case .created: (Answer(status: 202, body: [:]), charge.event(.settled))
      case .settled: (Answer(status: 422, body: ["error": "the payment is settled already"]), nil)
      case .cancelled: (Answer(status: 422, body: ["error": "the payment is cancelled"]), nil)
      }
    }
  }

  /// `POST /psp/api/payments/{reference}/cancel`: sees to it that the payment is never settled, unless it is.
  func cancelPayment(reference: String, key: String?) async throws(LogStoreError) -> Answer {
    try await change(reference, key: key, request: "cancel \(reference)") { charge in
      switch charge.status {
      case .created: (Answer(status: 202, body: [:]), charge.event(.cancelled))
      case .settled: (Answer(status: 422, body: ["error": "the payment is settled"]), nil)
      case .cancelled: (Answer(status: 422, body: ["error": "the payment is cancelled already"]), nil)
      }
    }
  }

  /// `POST /psp/api/payments/{reference}/refunds`: sends so much back, never more in all than was settled.
  func refundPayment(reference: String, key: String?, body: JSONValue) async throws(LogStoreError) -> Answer {
    guard let amount = Charge.money(body) else {
      return Answer(status: 400, body: ["error": "amount and currency are required"])
    }
    if let failure = failure(amount, faults(of: .psp)) { return failure }
    return try await change(reference, key: key, request: "refund \(reference) \(amount)") { charge in
      guard amount.currency == charge.money.currency, amount.minorUnits <= charge.refundable.minorUnits else {
        return (
          Answer(status: 422, body: ["error": .string("\(charge.refundable) are left to refund")]), nil
        )
      }
      return (
        Answer(status: 202, body: ["refundId": .string("\(reference):\(charge.refundCount + 1)")]),
        charge.event(
          .refunded, ["amount": .number(amount.decimal), "currency": .string(amount.currency.code)])
      )
    }
  }

  /// Answers from how a charge stands, and appends to it only if it still does.
  private func change(
    _ reference: String, key: String?, request: String, _ decide: (Charge) -> (answer: Answer, event: NewEvent?)
  ) async throws(LogStoreError) -> Answer {
    guard let id = EventID(reference), id.description == reference else { return Self.unknownPayment }
    let stream = Charge.stream(reference)
    return try await answerOnce(key: key, request: request) { () throws(LogStoreError) in
      let events = try self.events(of: stream)
      guard let charge = Charge(events), let last = events.last else { return Effect(answer: Self.unknownPayment) }
      let (answer, event) = decide(charge)
      return Effect(answer: answer, events: event.map { [$0] } ?? [], conditions: [stream: .version(last.version)])
    }
  }

  /// `POST /notifications/api/send`.
  func sendNotification(key: String?, body: JSONValue) async throws(LogStoreError) -> Answer {
    guard let id = body["id"]?.text, let payload = body["jsonPayload"]?.text else {
      return Answer(status: 400, body: ["error": "id and jsonPayload are required"])
    }
    return try await answerOnce(key: key, request: "notify \(id) \(payload)") { () throws(LogStoreError) in
      Effect(answer: Answer(status: 202, body: [:]))
    }
  }

  private static let unknownPayment = Answer(status: 404, body: ["error": "there is no such payment"])

  /// What a request does, decided from what is on the log.
  private struct Effect {
    var answer: Answer
    var events: [NewEvent] = []
    var conditions: StreamConditions = [:]
  }

  /// Answers a key's first request by `effect`, and every later one as that; another request with the key gets a 422.
  private func answerOnce(
    key: String?, request: String, effect: () throws(LogStoreError) -> Effect
  ) async throws(LogStoreError) -> Answer {
    guard key.map({ (1...Self.keyLimit).contains($0.utf8.count) }) ?? true else {
      return Answer(status: 400, body: ["error": .string("a key has 1 to \(Self.keyLimit) bytes")])
    }
    while true {
      if let key, let first = try events(of: "key:\(key)", limit: 1).first {
        return Self.repeated(first, request: request)
      }
      let effect = try effect()
      guard (200..<300).contains(effect.answer.status) else {
        // What stands in the way may be this very request, carried out since the key was looked for: key and effect are
        // in one append.
        if let key, let first = try events(of: "key:\(key)", limit: 1).first {
          return Self.repeated(first, request: request)
        }
        // A refusal has no effect to be remembered: the same request may be right later.
        return effect.answer
      }
      var append = Append(effect.events, conditions: effect.conditions)
      if let key {
        let record: JSONValue = [
          "request": .string(request), "status": .integer(effect.answer.status), "body": effect.answer.body,
        ]
        append.events.append(NewEvent(stream: "key:\(key)", type: "Answered", payload: record.bytes))
        append.conditions["key:\(key)"] = .noStream
      }
      do {
        if !append.events.isEmpty { _ = try await store.append(append) }
        return effect.answer
      } catch {
        follower.damage.met(error)
        // Another request with this key, or for this payment, was first: see what it did.
        guard case .conflict = error else { throw error }
      }
    }
  }

  private func events(of stream: String, limit: Int = .max) throws(LogStoreError) -> [Event] {
    try follower.look { reader throws(LogStoreError) in
      try reader.stream(stream, limit: limit, endsWithTask: false)
    }
  }

  private static func repeated(_ record: Event, request: String) -> Answer {
    guard let json = try? JSONReader.read(record.payload), case .number(let status) = json["status"],
      let status = Int(status), let body = json["body"]
    else { return Answer(status: 500, body: ["error": "the record of this key can't be read"]) }
    guard json["request"] == .string(request) else {
      return Answer(status: 422, body: ["error": "this idempotency key was used for another request"])
    }
    return Answer(status: status, body: body)
  }
}
