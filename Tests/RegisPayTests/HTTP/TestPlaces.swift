import Synchronization

/// Limits how many pieces of work run at once. A piece within another one needs no place of its own.
final class TestPlaces: Sendable {
  private struct State {
    var free: Int
    var waiting: [CheckedContinuation<Void, Never>] = []
  }

  private let state: Mutex<State>
  @TaskLocal private static var isInside = false

  init(_ count: Int) { state = Mutex(State(free: count)) }

  func use<Value>(_ work: () async throws -> Value) async rethrows -> Value {
    if Self.isInside { return try await work() }
    await withCheckedContinuation { continuation in
      let isFree = state.withLock { state in
        guard state.free == 0 else {
          state.free -= 1
          return true
        }
        state.waiting.append(continuation)
        return false
      }
      if isFree { continuation.resume() }
    }
    defer { leave() }
    return try await Self.$isInside.withValue(true) { try await work() }
  }

  private func leave() {
    let next = state.withLock { state -> CheckedContinuation<Void, Never>? in
      if state.waiting.isEmpty {
        state.free += 1
        return nil
      }
      return state.waiting.removeFirst()
    }
    next?.resume()
  }
}
