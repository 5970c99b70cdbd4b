import Foundation
import Synchronization

/// Finds the addresses of a name.
struct HostResolver: Sendable {
  /// - Throws: ``Failure``; soon after its task is cancelled, too.
  var addresses: @Sendable (_ host: String) async throws(Failure) -> [IPAddress]

  struct Failure: Error, Hashable, CustomStringConvertible {
    var description: String
  }

  /// Look-ups under way at once. The system's resolver can't be told to stop, and may take half a minute for a name whose
  /// servers are dead: each look-up has a thread of its own, so that none waits for another.
  private static let threadLimit = 256
  private static let threads = Atomic<Int>(0)

  static let system = HostResolver { host throws(Failure) in
    guard threads.add(1, ordering: .relaxed).newValue <= threadLimit else {
      threads.subtract(1, ordering: .relaxed)
      throw Failure(description: "\(threadLimit) names are being looked up already")
    }
    let answer = Answer()
    Thread.detachNewThread {
      let found = IPAddress.lookUp(host)
      threads.subtract(1, ordering: .relaxed)
      answer.set(
        found.addresses.isEmpty
          ? .failure(Failure(description: "the name can't be resolved: \(found.failure ?? "it has no address")"))
          : .success(found.addresses))
    }
    return try await withTaskCancellationHandler {
      await answer.value()
    } onCancel: {
      answer.set(.failure(Failure(description: "the look-up was given up")))
    }.get()
  }

  /// The first result that is set, for one who waits.
  private final class Answer: Sendable {
    private enum State {
      case empty
      case awaited(CheckedContinuation<Result<[IPAddress], Failure>, Never>)
      case set(Result<[IPAddress], Failure>)
    }

    private let state = Mutex(State.empty)

    func set(_ result: Result<[IPAddress], Failure>) {
      let continuation = state.withLock { state -> CheckedContinuation<Result<[IPAddress], Failure>, Never>? in
        switch state {
        case .empty:
          state = .set(result)
          return nil
        case .awaited(let continuation):
          state = .set(result)
          return continuation
        case .set: return nil
        }
      }
      continuation?.resume(returning: result)
    }

    func value() async -> Result<[IPAddress], Failure> {
      await withCheckedContinuation { continuation in
        let result = state.withLock { state -> Result<[IPAddress], Failure>? in
          if case .set(let result) = state { return result }
          state = .awaited(continuation)
          return nil
        }
        if let result { continuation.resume(returning: result) }
      }
    }
  }
}
