import Synchronization

@testable import RegisPay

/// A provider that responds as a test says, and records the calls.
final class FakeProvider: StepProvider {
  typealias Response = @Sendable (_ payment: Payment, _ attempt: Int) async -> CallOutcome

  private struct State {
    var calls: [PaymentID: Int] = [:]
    var inFlight = 0
    var mostInFlight = 0
  }

  private let state = Mutex(State())
  private let response: Response

  /// - Parameter response: by the payment and the number of the try, from 1.
  init(_ response: @escaping Response) { self.response = response }

  var calls: [PaymentID: Int] { state.withLock { $0.calls } }
  var callCount: Int { calls.values.reduce(0, +) }
  var mostInFlight: Int { state.withLock { $0.mostInFlight } }

  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    let attempt = state.withLock { state in
      state.calls[payment.id, default: 0] += 1
      state.inFlight += 1
      state.mostInFlight = max(state.mostInFlight, state.inFlight)
      return state.calls[payment.id, default: 0]
    }
    let outcome = await response(payment, attempt)
    state.withLock { $0.inFlight -= 1 }
    return outcome
  }
}

extension CallOutcome {
  static let created = CallOutcome.done(.recordCreated(reference: "r"))
  static let outage = CallOutcome.retry(CallRetry(.unreachable, reason: "down"))
  static let busy = CallOutcome.retry(CallRetry(.busy, reason: "busy"))
}

/// A source without due work.
struct NothingDelayed: DelayedWork {
  func due(
    _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)] { [] }
}

/// The waits on the log, read completely each time.
struct DelaysOfLog: DelayedWork {
  let log: PaymentLog

  func due(
    _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)] {
    var streams: Set<String> = []
    _ = try log.follower.forEach(from: 0) { event in
      let type = event.type.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
      if type == PaymentEvent.TypeName.delayed.rawValue {
        streams.insert(event.stream.withUnsafeBytes { String(decoding: $0, as: UTF8.self) })
      }
      return true
    }
    return try streams.compactMap { PaymentID(stream: $0) }.flatMap { id in
      let delays = try log.load(id)?.payment.delays ?? []
      return delays.filter {
        $0.work.step == step && $0.didTimeOut == didTimeOut
          && ($0.untilMicroseconds <= microseconds || $0.beganMicroseconds ?? 0 > impossible)
      }.map { (id, $0) }
    }
  }
}
