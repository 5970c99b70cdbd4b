import Hummingbird
import LogStore

/// How far processing is: what the consumers have read of the log, what they wait for and why.
struct ConsumerRoutes: Sendable {
  let reader: LogReader
  let consumers: ConsumerBoard
  let projection: PaymentProjection

  func add(to router: Routes) {
    router.answer("/api/v1/consumers", [.get: { _, _ in try await list() }])
  }

  private func list() async throws -> Response {
    let parked = try await projection.count(status: .failed)
    let end = reader.endOffset
    let now = ContinuousClock.now
    var all: [JSONValue] = []
    for progress in await consumers.progress {
      all.append([
        "name": .string(progress.name), "cursor": .integer(progress.committed), "place": .integer(progress.place),
        "lag": .integer(end - min(end, progress.place)), "callsUnderWay": .integer(progress.callsUnderWay),
        "unfinished": .integer(progress.unfinished), "waiting": .integer(progress.waiting),
        "delayed": .integer(try await projection.delayCount(progress.step)),
        "breaker": Self.breaker(progress.breaker, now),
      ])
    }
    let list = projection.progress
    return Response(json: [
      "logEnd": .integer(end), "consumers": .array(all), "parked": .integer(parked),
      "paymentList": [
        "place": .integer(list.place), "lag": .integer(list.end - list.place), "complete": .bool(!list.isCatchingUp),
      ],
    ])
  }

  private static func breaker(_ breaker: Breaker, _ now: ContinuousClock.Instant) -> JSONValue {
    var members: [JSONValue.Member] = [.init("of", .string(breaker.name))]
    switch breaker.state {
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
