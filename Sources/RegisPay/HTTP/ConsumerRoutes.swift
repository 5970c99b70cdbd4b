import Hummingbird
import LogStore

/// How far processing is: what the consumers have read of the log, what they wait for and why.
struct ConsumerRoutes: Sendable {
  let log: PaymentLog
  let consumers: ConsumerRegistry
  let board: RetryStatus
  let projection: PaymentProjection

  func add(to router: Routes) {
    router.answer("/api/v1/consumers", [.get: { _, _ in try await list() }])
  }

  private func list() async throws -> Response {
    let parked = try await projection.failedCount()
    let unknown = try await projection.unknownCount()
    let end = log.reader.endOffset
    let now = ContinuousClock.now
    var all: [JSONValue] = []
    for progress in await consumers.progress {
      all.append([
        "name": .string(progress.name), "cursor": .integer(progress.committed), "place": .integer(progress.place),
        "lag": .integer(end - min(end, progress.place)), "callsUnderWay": .integer(progress.callsUnderWay),
        "slowCalls": .integer(progress.slowCalls), "unfinished": .integer(progress.unfinished),
        "waiting": .integer(progress.waiting), "delayed": .integer(try await projection.delayCount(progress.step)),
        "reasons": try await reasons(progress.step),
        "breaker": Self.breaker(progress.breaker, now),
      ])
    }
    if let completion = consumers.completion {
      all.append([
        "name": .string(CompletionConsumer.cursorName), "cursor": .integer(completion.committed),
        "place": .integer(completion.place), "lag": .integer(end - min(end, completion.place)),
      ])
    }
    let list = projection.progress
    let damage = log.damage.summary
    return Response(json: [
      "logEnd": .integer(end), "clockAheadMilliseconds": .integer(log.store.clockLeadMicroseconds / 1_000),
      "consumers": .array(all), "parked": .integer(parked), "outcomeUnknown": .integer(unknown), "calls": calls,
      "damage": Self.json(damage),
      "paymentList": [
        "place": .integer(list.place), "lag": .integer(list.end - list.place), "complete": .bool(!list.isCatchingUp),
      ],
    ])
  }

  /// Whether calls may go out at all.
  private var calls: JSONValue {
    var members: [JSONValue.Member] = [.init("state", log.gate.isOpen ? "open" : "held")]
    if let reason = log.gate.reason { members.append(.init("reason", .string(reason))) }
    members.append(.init("outcomesKept", .integer(log.gate.keptCount)))
    return .object(members)
  }

  /// Why payments wait for this step, in memory or on the log: the most frequent reasons.
  private func reasons(_ step: PaymentStep) async throws -> JSONValue {
    let delayed = try await projection.delayReasons(step)
    // There may be as many reasons as payments that wait.
    return await RequestThreads.run(.short) { [board] in
      let counts = board.reasons(step).merging(delayed) { $0 + $1 }
      let most = counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(Self.reasonLimit)
      return .array(most.map { ["reason": .string($0.key), "payments": .integer($0.value)] })
    }
  }

  private static let reasonLimit = 5

  private static func json(_ damage: DamageStatus.Summary) -> JSONValue {
    [
      "places": .array(
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
