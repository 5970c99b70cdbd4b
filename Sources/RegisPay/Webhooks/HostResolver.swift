import Foundation
import Synchronization

/// Finds the addresses of a name.
struct HostResolver: Sendable {
  /// - Parameter share: of the endpoint that asks.
  /// - Throws: ``Failure``; soon after its task is cancelled, too.
  var addresses: @Sendable (_ host: String, _ share: LookUpShare) async throws(Failure) -> [IPAddress]

  enum Failure: Error, Hashable {
    /// The name has no address, or its servers don't say.
    case unresolved(reason: String)
    /// The name was not looked up, for want of room in this process. It says nothing about the name.
    case noRoom(reason: String)
  }

  static let system: HostResolver = {
    let lookUps = NameLookUps()
    return HostResolver { host, share throws(Failure) in try await lookUps.addresses(of: host, for: share) }
  }()
}

/// How many look-ups one endpoint has in flight. A look-up holds on to it until it ends, whoever still waits for it.
final class LookUpShare: Sendable {
  fileprivate let count = Atomic<Int>(0)
}

/// Looks names up with the system's resolver. That can't be stopped, and takes up to 40 seconds for a name whose servers
/// don't answer, so a look-up has a thread of its own, and the threads are bounded three ways:
///
/// - A name is looked up once at a time. Tasks that ask for it meanwhile wait, without a thread, for the same answer.
///   An answer is not kept: who asks after it came starts another look-up, so that a change of the name is seen.
/// - An endpoint starts ``shareLimit`` look-ups at a time. It asks for one name, that of its URL; a second one leaves
///   room for a URL that was changed while the former name hangs. So the endpoints that exist can't use up all threads.
/// - The process has ``threadLimit``, for the names of endpoints that were removed.
///
/// Safe to use from any task.
final class NameLookUps: Sendable {
  typealias LookUp = @Sendable (_ host: String) -> (addresses: [IPAddress], failure: String?)

  private let threadLimit: Int
  private let shareLimit: Int
  private let lookUp: LookUp
  /// Who waits for the look-ups in flight, by name.
  private let waiters = Mutex<[String: [Answer]]>([:])

  /// - Parameter lookUp: blocks until it has an answer. Each call is on a thread of its own.
  init(threadLimit: Int = 256, shareLimit: Int = 2, lookUp: @escaping LookUp = { IPAddress.lookUp($0) }) {
    self.threadLimit = threadLimit
    self.shareLimit = shareLimit
    self.lookUp = lookUp
  }

  /// Look-ups in flight, a thread each.
  var threadCount: Int { waiters.withLock { $0.count } }

  /// Tasks that wait for them.
  var waiterCount: Int { waiters.withLock { $0.values.reduce(0) { $0 + $1.count } } }

  func addresses(of host: String, for share: LookUpShare) async throws(HostResolver.Failure) -> [IPAddress] {
    let answer = Answer()
    if try join(host, answer, share) {
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
      await answer.value()
    } onCancel: {
      waiters.withLock { $0[host]?.removeAll { $0 === answer } }
      answer.set(.failure(.unresolved(reason: "the look-up was given up")))
    }.get()
  }

  /// - Returns: whether a look-up has to be started.
  private func join(_ host: String, _ answer: Answer, _ share: LookUpShare) throws(HostResolver.Failure) -> Bool {
    try waiters.withLock { waiters throws(HostResolver.Failure) in
      if waiters[host] != nil {
        waiters[host]?.append(answer)
        return false
      }
      // Changed under the lock only.
      guard share.count.load(ordering: .relaxed) < shareLimit else {
        throw .noRoom(reason: "\(shareLimit) names of this endpoint are being looked up already")
      }
      guard waiters.count < threadLimit else {
        throw .noRoom(reason: "\(threadLimit) names are being looked up already")
      }
      share.count.add(1, ordering: .relaxed)
      waiters[host] = [answer]
      return true
    }
  }

  private func end(_ host: String, _ share: LookUpShare, _ result: Answer.Outcome) {
    let answers = waiters.withLock { waiters in
      share.count.subtract(1, ordering: .relaxed)
      return waiters.removeValue(forKey: host) ?? []
    }
    for answer in answers { answer.set(result) }
  }

  /// The first result that is set, for the one task that waits for it.
  private final class Answer: Sendable {
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
