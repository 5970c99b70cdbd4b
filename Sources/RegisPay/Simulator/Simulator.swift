import LogStore
import Logging
import Synchronization

/// A simulated payment service provider and notification service. It records its effects on a log of its own, so that it knows
/// every key and every charge after it was killed and restarted.
///
/// Each idempotency key has a stream, written in the same append as the request's effect and only if the stream is new: of equal
/// requests the first one wins, even when they come at once. Safe to use from any task.
public final class Simulator: Sendable {
  public struct Response: Sendable, Hashable {
    public var status: Int
    public var body: JSONValue
    /// Seconds.
    public var retryAfter: Int?
  }

  let store: LogStore
  /// Reads the log, and notes what of it can't be read.
  let follower: LogFollower
  private let logger: Logger?
  private let isFailing = Atomic<Bool>(false)
  /// Lost at a restart.
  private let faults: Mutex<[Service: Faults]>

  public enum Service: String, Sendable, Hashable, CaseIterable {
    case psp, notifications
  }

  private static let answeredType = "Answered"

  /// Whether the simulator writes events of this type. The payments log has none of them.
  static func writes(_ type: String) -> Bool { type == answeredType || Charge.EventType(rawValue: type) != nil }

  /// The most bytes of a key; its stream's name must fit the log.
  private static let keyLimit = 200

  /// - Parameters:
  ///   - name: the log's, for log lines.
  ///   - faults: those to begin with.
  ///   - logger: logs damage, and what keeps the log from being written.
  public init(
    store: LogStore, name: String = "simulator", faults: [Service: Faults] = [:], logger: Logger? = nil
  ) {
    self.store = store
    self.logger = logger
    follower = LogFollower(store.reader, DamageStatus(store.reader, name: name, logger: logger))
    self.faults = Mutex(faults)
  }

  func faults(of service: Service) -> Faults { faults.withLock { $0[service] ?? Faults() } }

  func setFaults(_ new: Faults, of service: Service) { faults.withLock { $0[service] = new } }

  /// Switches the failure of every call with 500 on or off.
  ///
  /// - Returns: whether calls fail now.
  func toggleErrors() -> Bool {
    // Atomic, so that two concurrent toggles count as two.
    var seen = isFailing.load(ordering: .relaxed)
    while true {
      let (exchanged, original) = isFailing.weakCompareExchange(expected: seen, desired: !seen, ordering: .relaxed)
      if exchanged { return !seen }
      seen = original
    }
  }

  /// The response to every call while errors are switched on; nil while they are off.
  var outage: Response? {
    isFailing.load(ordering: .relaxed) ? Response(status: 500, body: ["error": "errors are switched on"]) : nil
  }

  /// `POST /psp/api/payments/create`: creates a charge.
  func createPayment(key: String?, body: JSONValue) async throws(LogStoreError) -> Response {
    guard let money = Charge.money(body) else {
      return Response(status: 400, body: ["error": .string(Charge.moneyRule)])
    }
    let faults = faults(of: .psp)
    if let failure = failure(money, faults) { return failure }
    return try await respondOnce(key: key, request: "create \(money)") { () throws(LogStoreError) in
      if faults.declines(money, randomness: .random(in: 0..<1)) {
        return Effect(response: Response(status: 402, body: ["error": "declined"]))
      }
      let charge = Charge(reference: EventID.random().description, idempotencyKey: key, money: money)
      return Effect(
        response: Response(status: 202, body: ["paymentId": .string(charge.reference)]),
        events: [charge.event(.created, charge.json)], conditions: [Charge.stream(charge.reference): .noStream])
    }
  }

  private func failure(_ money: Money, _ faults: Faults) -> Response? {
    faults.failure(of: money, randomness: .random(in: 0..<1)).map { Self.failure($0, faults) }
  }

  static func failure(_ status: Int, _ faults: Faults) -> Response {
    Response(status: status, body: ["error": "a fault was asked for"], retryAfter: faults.retryAfter)
  }

  /// `POST /psp/api/payments/{reference}/settle`.
  func settlePayment(reference: String, key: String?) async throws(LogStoreError) -> Response {
    try await change(reference, key: key, request: "settle \(reference)") { charge in
      switch charge.status {
      case .created: (Response(status: 202, body: [:]), charge.event(.settled))
      case .settled: (Response(status: 422, body: ["error": "the payment is settled already"]), nil)
      case .cancelled: (Response(status: 422, body: ["error": "the payment is cancelled"]), nil)
      }
    }
  }

  /// `POST /psp/api/payments/{reference}/cancel`: cancels the payment unless it is settled.
  func cancelPayment(reference: String, key: String?) async throws(LogStoreError) -> Response {
    try await change(reference, key: key, request: "cancel \(reference)") { charge in
      switch charge.status {
      case .created: (Response(status: 202, body: [:]), charge.event(.cancelled))
      case .settled: (Response(status: 422, body: ["error": "the payment is settled"]), nil)
      case .cancelled: (Response(status: 422, body: ["error": "the payment is cancelled already"]), nil)
      }
    }
  }

  /// `POST /psp/api/payments/{reference}/refunds`: refunds an amount, in total never more than was settled.
  func refundPayment(reference: String, key: String?, body: JSONValue) async throws(LogStoreError) -> Response {
    guard let amount = Charge.money(body) else {
      return Response(status: 400, body: ["error": .string(Charge.moneyRule)])
    }
    if let failure = failure(amount, faults(of: .psp)) { return failure }
    return try await change(reference, key: key, request: "refund \(reference) \(amount)") { charge in
      guard amount.currency == charge.money.currency, amount.minorUnits <= charge.refundable.minorUnits else {
        return (
          Response(
            status: 422,
            body: ["error": .string("\(charge.refundable) of this payment are left to refund, not \(amount)")]), nil
        )
      }
      return (
        Response(status: 202, body: ["refundId": .string("\(reference):\(charge.refundCount + 1)")]),
        charge.event(
          .refunded, ["amount": .number(amount.decimal), "currency": .string(amount.currency.code)])
      )
    }
  }

  /// Decides on a charge's state, and appends to the charge only if that state is still current.
  private func change(
    _ reference: String, key: String?, request: String, _ decide: (Charge) -> (response: Response, event: NewEvent?)
  ) async throws(LogStoreError) -> Response {
    guard let id = EventID(reference), id.description == reference else { return Self.unknownPayment }
    let stream = Charge.stream(reference)
    return try await respondOnce(key: key, request: request) { () throws(LogStoreError) in
      let events = try self.events(of: stream)
      guard let charge = Charge(events), let last = events.last else { return Effect(response: Self.unknownPayment) }
      let (response, event) = decide(charge)
      return Effect(response: response, events: event.map { [$0] } ?? [], conditions: [stream: .version(last.version)])
    }
  }

  /// `POST /notifications/api/send`.
  func sendNotification(key: String?, body: JSONValue) async throws(LogStoreError) -> Response {
    guard let id = body["id"]?.text, let payload = body["jsonPayload"]?.text else {
      return Response(status: 400, body: ["error": "id and jsonPayload are required"])
    }
    return try await respondOnce(key: key, request: "notify \(id) \(payload)") { () throws(LogStoreError) in
      Effect(response: Response(status: 202, body: [:]))
    }
  }

  private static let unknownPayment = Response(status: 404, body: ["error": "there is no such payment"])

  /// The response to a request and its effect on the log.
  private struct Effect {
    var response: Response
    var events: [NewEvent] = []
    var conditions: StreamConditions = [:]
  }

  /// Responds to a key's first request with `effect`, and to every repeat with the same response. Another request with the key
  /// gets a 422.
  private func respondOnce(
    key: String?, request: String, effect: () throws(LogStoreError) -> Effect
  ) async throws(LogStoreError) -> Response {
    guard key.map({ (1...Self.keyLimit).contains($0.utf8.count) }) ?? true else {
      return Response(status: 400, body: ["error": .string("a key has 1 to \(Self.keyLimit) bytes")])
    }
    while true {
      if let key, let first = try events(of: "key:\(key)", limit: 1).first {
        return Self.repeated(first, request: request)
      }
      let effect = try effect()
      guard (200..<300).contains(effect.response.status) else {
        // The refusal may come from this very request, carried out since the key was looked up: key and effect are in one
        // append.
        if let key, let first = try events(of: "key:\(key)", limit: 1).first {
          return Self.repeated(first, request: request)
        }
        // A refusal has no effect to record: the same request may succeed later.
        return effect.response
      }
      var append = Append(effect.events, conditions: effect.conditions)
      if let key {
        let record: JSONValue = [
          "request": .string(request), "status": .integer(effect.response.status), "body": effect.response.body,
        ]
        append.events.append(NewEvent(stream: "key:\(key)", type: Self.answeredType, payload: record.bytes))
        append.conditions["key:\(key)"] = .noStream
      }
      do {
        if !append.events.isEmpty { try await self.append(append) }
        return effect.response
      } catch {
        // Another request with this key, or for this payment, was first: decide again.
        guard case .conflict = error else { throw error }
      }
    }
  }

  @discardableResult
  func append(_ append: Append) async throws(LogStoreError) -> Appended {
    do throws(LogStoreError) {
      return try await store.append(append)
    } catch {
      follower.damage.note(error)
      if case .conflict = error { throw error }
      logger?.error("the simulator's log can't write", metadata: ["error": "\(error)"])
      throw error
    }
  }

  private func events(of stream: String, limit: Int = .max) throws(LogStoreError) -> [Event] {
    try follower.lookUp { reader throws(LogStoreError) in
      try reader.stream(stream, limit: limit, endsWithTask: false)
    }
  }

  private static func repeated(_ record: Event, request: String) -> Response {
    guard let json = try? JSONReader.read(record.payload), case .number(let status) = json["status"],
      let status = Int(status), let body = json["body"]
    else { return Response(status: 500, body: ["error": "the record of this key can't be read"]) }
    guard json["request"] == .string(request) else {
      return Response(status: 422, body: ["error": "this idempotency key was used for another request"])
    }
    return Response(status: status, body: body)
  }
}

extension Simulator: MarkedLog {
  var reader: LogReader { store.reader }
}
