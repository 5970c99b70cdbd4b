import Synchronization

/// The places for streams that are open at once, of all clients and of each. Safe to use from any task.
final class StreamSlots: Sendable {
  private let limit: Int
  private let limitPerClient: Int
  private let state = Mutex((count: 0, counts: [String: Int]()))

  init(limit: Int, limitPerClient: Int) {
    self.limit = limit
    self.limitPerClient = limitPerClient
  }

  var count: Int { state.withLock { $0.count } }

  /// - Returns: the place; free again when it is released, however the stream ended.
  /// - Throws: ``Problem`` 503 when all are taken, 429 when the client has too many.
  func take(_ client: String) throws(Problem) -> Slot {
    let (limit, limitPerClient) = (limit, limitPerClient)
    try state.withLock { state throws(Problem) in
      guard state.counts[client, default: 0] < limitPerClient else {
        throw Problem(
          status: .tooManyRequests, name: "too-many-streams",
          detail: "This client has \(limitPerClient) event streams open already.",
          headers: [.init(name: .retryAfter, value: "1")])
      }
      guard state.count < limit else { throw Problem.unavailable("\(limit) event streams are open already.") }
      state.count += 1
      state.counts[client, default: 0] += 1
    }
    return Slot(self, client)
  }

  private func free(_ client: String) {
    state.withLock { state in
      state.count -= 1
      let left = state.counts[client, default: 0] - 1
      state.counts[client] = left > 0 ? left : nil
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
