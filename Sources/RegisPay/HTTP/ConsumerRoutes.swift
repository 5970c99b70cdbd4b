import Hummingbird
import LogStore
import Logging

/// `GET /api/v1/consumers`: how far each consumer is, and what payments wait for.
struct ConsumerRoutes: Sendable {
  let log: PaymentLog
  let consumers: ConsumerRegistry
  let broker: BrokerPublisher?
  let stepPublisher: BrokerPublisher?
  let retryStatus: RetryStatus
  let projection: PaymentProjection
  let actions: ActionLog
  let logger: Logger

  func add(to router: Routes) {
    router.handle("/api/v1/consumers", [.get: { _, _ in try await list() }])
    router.handle("/api/v1/consumers/{name}/try", [.post: { _, context in try await tryNow(context) }])
  }

  /// Ends the wait of a consumer's open circuit breakers.
  private func tryNow(_ context: HTTPRequestContext) async throws -> Response {
    let name = context.parameters.get("name") ?? ""
    guard let consumer = consumers.consumer(name) else {
      throw Problem.notFound("There is no consumer \(name.debugDescription) that makes calls.")
    }
    let before = await consumer.status.breaker.status
    consumer.tryNow()
    if before.state != .closed {
      logger.notice(
        "a person has the circuit breaker try now",
        metadata: [
          "consumer": "\(name)", "reason": "\(before.reason ?? "")", "actor": "\(context.key?.name ?? "")",
        ])
      await actions.record(
        .breakerTried, name, before.reason.map { [.init("reason", .string($0))] } ?? [], by: context.holder)
    }
    return Response(json: [
      "name": .string(name), "breaker": Self.breaker(await consumer.status.breaker, .now),
    ])
  }

  private func list() async throws -> Response {
    let parked = try await projection.parkedCount()
    let unknown = try await projection.unknownCount()
    let end = log.reader.endOffset
    let now = ContinuousClock.now
    var all: [JSONValue] = []
    let queues = stepPublisher?.status.queues ?? []
    for status in await consumers.statuses {
      var members: [JSONValue.Member] = Self.members([
        "name": .string(status.name), "checkpoint": .integer(status.checkpoint),
        "nextOffset": .integer(status.nextOffset), "lag": .integer(end - min(end, status.nextOffset)),
        "inFlight": .integer(status.inFlight), "slowCalls": .integer(status.slowCalls),
        "unfinished": .integer(status.unfinished), "waiting": .integer(status.waiting),
        "delayed": .integer(try await projection.delayCount(status.step)),
        "reasons": try await reasons(status.step), "breaker": Self.breaker(status.breaker, now),
      ])
      if let queue = queues.first(where: { $0.queue.step == status.step }) {
        members.append(.init("queue", Self.json(queue)))
      }
      all.append(.object(members))
    }
    if let completion = consumers.completion {
      all.append([
        "name": .string(CompletionConsumer.cursorName), "checkpoint": .integer(completion.checkpoint),
        "nextOffset": .integer(completion.nextOffset), "lag": .integer(end - min(end, completion.nextOffset)),
      ])
    }
    for status in [broker, stepPublisher].compactMap({ $0?.status }) { all.append(Self.json(status, end: end, now)) }
    let list = projection.status
    let damage = log.damage.summary
    return Response(json: [
      "logEnd": .integer(end), "clockAheadMilliseconds": .integer(log.store.clockLeadMicroseconds / 1_000),
      "consumers": .array(all), "parked": .integer(parked), "outcomeUnknown": .integer(unknown), "calls": calls,
      "damage": Self.json(damage),
      "paymentList": [
        "nextOffset": .integer(list.nextOffset), "lag": .integer(list.logEnd - list.nextOffset),
        "complete": .bool(!list.isCatchingUp),
      ],
    ])
  }

  /// Whether calls go out at all.
  private var calls: JSONValue {
    var members: [JSONValue.Member] = [.init("state", log.gate.isOpen ? "open" : "held")]
    if let reason = log.gate.reason { members.append(.init("reason", .string(reason))) }
    members.append(.init("outcomesKept", .integer(log.gate.unrecordedCount)))
    return .object(members)
  }

  /// The most frequent reasons why payments wait for a step, in memory or on the log.
  private func reasons(_ step: PaymentStep) async throws -> JSONValue {
    let delayed = try await projection.delayReasons(step)
    // There may be as many reasons as waiting payments: sorting them must not hold up an event loop.
    return await RequestThreads.run(.short) { [retryStatus] in
      let counts = retryStatus.reasons(step).merging(delayed) { $0 + $1 }
      let most = counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(Self.reasonLimit)
      return .array(most.map { ["reason": .string($0.key), "payments": .integer($0.value)] })
    }
  }

  private static let reasonLimit = 5

  private static func json(_ damage: DamageStatus.Summary) -> JSONValue {
    [
      "ranges": .array(
        damage.ranges.map { range in
          [
            "file": .string(range.damage.file), "byte": .integer(range.damage.position),
            "reason": .string(range.damage.reason), "offset": .integer(range.offsets.lowerBound),
            "events": .integer(range.offsets.length),
          ]
        }),
      "lostEvents": .integer(damage.lostEvents), "incompleteStreams": .integer(damage.incomplete),
      "newerPayments": .integer(damage.newer),
      "skipped": .array(
        damage.skipped.map { skipped in
          [
            "paymentId": .string(skipped.id.description), "step": .string("\(skipped.work)"),
            "reason": .string(skipped.reason),
          ]
        }),
    ]
  }

  private static func members(_ object: JSONValue) -> [JSONValue.Member] {
    if case .object(let members) = object { members } else { [] }
  }

  private static func json(_ queue: StepQueue.Status) -> JSONValue {
    [
      "name": .string(queue.queue.name), "messages": .integer(queue.messages), "workers": .integer(queue.workers),
      "deadLetters": .integer(queue.deadLetters),
    ]
  }

  private static func json(_ status: BrokerStatus, end: UInt64, _ now: ContinuousClock.Instant) -> JSONValue {
    var connection: [JSONValue.Member] = [.init("state", .string(status.state.rawValue))]
    if let address = status.address { connection.append(.init("address", .string(address))) }
    if let reason = status.reason { connection.append(.init("reason", .string(reason))) }
    return [
      "name": .string(status.name), "checkpoint": .integer(status.checkpoint),
      "nextOffset": .integer(status.nextOffset), "lag": .integer(end - min(end, status.nextOffset)),
      "inFlight": .integer(status.inFlight), "unfinished": .integer(status.unfinished),
      "broker": .object(connection),
      "skippedExchanges": .array(
        status.skipped.map { skipped in
          [
            "exchange": .string(skipped.name), "messages": .integer(skipped.count),
            "firstOffset": .integer(skipped.offsets.lowerBound), "lastOffset": .integer(skipped.offsets.upperBound),
          ]
        }),
      "heldExchanges": .array(
        status.held.map { held in
          [
            "exchange": .string(held.name), "reason": .string(held.reason),
            "nextTryInMilliseconds": .integer(Int64(max(now.duration(to: held.nextTry), .zero) / .milliseconds(1))),
          ]
        }),
    ]
  }

  private static func breaker(_ breaker: Breaker, _ now: ContinuousClock.Instant) -> JSONValue {
    var members: [JSONValue.Member] = [.init("of", .string(breaker.name))]
    let status = breaker.status
    if let reason = status.reason { members.append(.init("reason", .string(reason))) }
    switch status.state {
    case .closed: members.append(.init("state", "closed"))
    case .trying: members.append(.init("state", "trying"))
    case .open(let until):
      members.append(.init("state", "open"))
      let left = max(now.duration(to: until), .zero)
      members.append(.init("nextTryInMilliseconds", .integer(Int64(left / .milliseconds(1)))))
    }
    return .object(members)
  }
}
