import Foundation
import Synchronization

/// Finds the addresses of a name.
struct HostResolver: Sendable {
  /// - Parameter share: the share of the endpoint that asks.
  /// - Throws: ``Failure``, also soon after the task is cancelled.
  var addresses: @Sendable (_ host: String, _ share: LookUpShare) async throws(Failure) -> [IPAddress]

  enum Failure: Error, Hashable {
    /// The name has no address, or its servers don't respond.
    case unresolved(reason: String)
    /// This process has no room for another look-up. This says nothing about the name.
    case noRoom(reason: String)
  }

  static let system: HostResolver = {
    let lookUps = NameLookUps()
    return HostResolver { host, share throws(Failure) in try await lookUps.addresses(of: host, for: share) }
  }()
}

/// Counts the look-ups that one endpoint has in flight. A look-up counts until it ends, even if no task waits for it any more.
final class LookUpShare: Sendable {
  fileprivate let count = Atomic<Int>(0)
}

/// Looks up names with the system's resolver. A look-up can't be stopped and takes up to 40 seconds for a name whose servers
/// don't respond, so each has its own thread, and three limits bound the threads:
///
/// - A name is looked up once at a time. Tasks that ask for it meanwhile wait, without a thread, for the same result. Results are
///   not cached: a later request starts another look-up, so that it sees a change of the name.
/// - An endpoint has at most ``shareLimit`` look-ups in flight. It needs one name, that of its URL; the second leaves room for a
///   URL that was changed while the former name hangs. So the existing endpoints can't use up all threads.
/// - The process has at most ``threadLimit``, which bounds the names of removed endpoints.
///
/// Safe to use from any task.
final class NameLookUps: Sendable {
  typealias LookUp = @Sendable (_ host: String) -> (addresses: [IPAddress], failure: String?)

  private let threadLimit: Int
  private let shareLimit: Int
  private let lookUp: LookUp
  /// The tasks that wait for the look-ups in flight, by name.
  private let waiters = Mutex<[String: [Waiter]]>([:])

  /// The most look-ups at once: each has a socket, and connections and logs must find descriptors beside them.
  static func threadLimit(descriptors: Int) -> Int { min(256, max(4, descriptors / 16)) }

  /// - Parameter lookUp: blocks until it has a result. Each call runs on its own thread.
  init(
    threadLimit: Int = threadLimit(descriptors: DescriptorLimit.current), shareLimit: Int = 2,
    lookUp: @escaping LookUp = { IPAddress.lookUp($0) }
  ) {
    self.threadLimit = threadLimit
    self.shareLimit = shareLimit
    self.lookUp = lookUp
  }

  /// Look-ups in flight; each has a thread.
  var threadCount: Int { waiters.withLock { $0.count } }

  /// Tasks that wait for look-ups.
  var waiterCount: Int { waiters.withLock { $0.values.reduce(0) { $0 + $1.count } } }

  func addresses(of host: String, for share: LookUpShare) async throws(HostResolver.Failure) -> [IPAddress] {
    let waiter = Waiter()
    if try join(host, waiter, share) {
      Thread.detachNewThread { [self] in
        let found = lookUp(host)
        end(
          host, share,
          found.addresses.isEmpty
            ? .failure(.unresolved(reason: "the name can't be resolved: \(found.failure ?? "it has no address")"))
            : .success(found.addresses))
      }
    }
    return try await withTaskCancellationHandler {
      await waiter.value()
    } onCancel: {
      waiters.withLock { $0[host]?.removeAll { $0 === waiter } }
      waiter.set(.failure(.unresolved(reason: "the look-up was cancelled")))
    }.get()
  }

  /// - Returns: whether the caller must start a look-up.
  private func join(_ host: String, _ waiter: Waiter, _ share: LookUpShare) throws(HostResolver.Failure) -> Bool {
    try waiters.withLock { waiters throws(HostResolver.Failure) in
      if waiters[host] != nil {
        waiters[host]?.append(waiter)
        return false
      }
      // The count changes only under the lock.
      guard share.count.load(ordering: .relaxed) < shareLimit else {
        throw .noRoom(reason: "\(shareLimit) names of this endpoint are being looked up already")
      }
      guard waiters.count < threadLimit else {
        throw .noRoom(reason: "\(threadLimit) names are being looked up already")
      }
      share.count.add(1, ordering: .relaxed)
      waiters[host] = [waiter]
      return true
    }
  }

  private func end(_ host: String, _ share: LookUpShare, _ result: Waiter.Outcome) {
    let ended = waiters.withLock { waiters in
      share.count.subtract(1, ordering: .relaxed)
      return waiters.removeValue(forKey: host) ?? []
    }
    for waiter in ended { waiter.set(result) }
  }

  /// Holds the first result that is set, for the one task that waits for it.
  private final class Waiter: Sendable {
    typealias Outcome = Result<[IPAddress], HostResolver.Failure>

    private enum State {
      case empty
      case awaited(CheckedContinuation<Outcome, Never>)
      case set(Outcome)
    }

    private let state = Mutex(State.empty)

    func set(_ result: Outcome) {
      let continuation = state.withLock { state -> CheckedContinuation<Outcome, Never>? in
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

    func value() async -> Outcome {
      await withCheckedContinuation { continuation in
        let result = state.withLock { state -> Outcome? in
          if case .set(let result) = state { return result }
          state = .awaited(continuation)
          return nil
        }
        if let result { continuation.resume(returning: result) }
      }
    }
  }
}
