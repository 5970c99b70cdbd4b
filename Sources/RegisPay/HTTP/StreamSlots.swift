import Synchronization

/// Limits the open event streams or other long responses, in all and for each client. Safe to use from any task.
final class StreamSlots: Sendable {
  private let limit: Int
  private let limitPerClient: Int
  /// What is limited, in the plural.
  private let name: String
  private let state = Mutex((count: 0, countByClient: [String: Int]()))

  init(limit: Int, limitPerClient: Int, of name: String = "event streams") {
    self.name = name
    self.limit = limit
    self.limitPerClient = limitPerClient
  }

  convenience init(_ limits: HTTPLimits) {
    self.init(limit: limits.streams, limitPerClient: limits.streamsPerClient)
  }

  var count: Int { state.withLock { $0.count } }

  /// - Returns: a slot, which is free again when the object is released, however the stream ends.
  /// - Throws: ``Problem`` 503 when all slots are taken, 429 when the client has too many.
  func take(_ client: String) throws(Problem) -> Slot {
    let (limit, limitPerClient, name) = (limit, limitPerClient, name)
    try state.withLock { state throws(Problem) in
      guard state.countByClient[client, default: 0] < limitPerClient else {
        throw Problem(
          status: .tooManyRequests, name: "too-many-streams",
          detail: "This client already has \(limitPerClient) open \(name).",
          headers: [.init(name: .retryAfter, value: "1")])
      }
      guard state.count < limit else { throw Problem.unavailable("\(limit) \(name) are already open.") }
      state.count += 1
      state.countByClient[client, default: 0] += 1
    }
    return Slot(self, client)
  }

  private func free(_ client: String) {
    state.withLock { state in
      state.count -= 1
      let left = state.countByClient[client, default: 0] - 1
      state.countByClient[client] = left > 0 ? left : nil
    }
  }

  final class Slot: Sendable {
    private let slots: StreamSlots
    private let client: String

    fileprivate init(_ slots: StreamSlots, _ client: String) {
      self.slots = slots
      self.client = client
    }

    deinit { slots.free(client) }
  }
}
