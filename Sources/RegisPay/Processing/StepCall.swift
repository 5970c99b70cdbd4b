import LogStore
import Logging

/// What an event asks for.
struct StepRequest: Sendable {
  var id: PaymentID
  var work: PaymentWork
}

/// What is to be done, and where it comes from.
enum StepWork: Sendable {
  /// An event that was read at this offset.
  case read(UInt64, StepRequest)
  case delayed(DelayedQueue.Item)

  var id: PaymentID {
    switch self {
    case .read(_, let request): request.id
    case .delayed(let item): item.id
    }
  }

  var work: PaymentWork {
    switch self {
    case .read(_, let request): request.work
    case .delayed(let item): item.delay.work
    }
  }

  /// The wait that is over. What the payment says of another one is newer, or is told in its time.
  var delay: Delay? {
    if case .delayed(let item) = self { item.delay } else { nil }
  }
}

/// How a try ended, for the consumer that began it.
enum StepEnding: Sendable {
  /// - Parameter committed: how far the cursor was moved with it.
  case finished(isAccepted: Bool, committed: UInt64 = 0)
  case retry(CallRetry)
  /// Not tried, or not to the end; it stays unfinished.
  case abandoned
}

/// One try of a step: reads the payment, calls the provider and appends what came of it.
///
/// Safe to use from any task: hundreds of tries run at once.
struct StepCall: Sendable {
  /// The consumer's place once the work is finished, to be committed with its effect.
  typealias Place = @Sendable () async -> UInt64

  let log: PaymentLog
  let cursorName: String
  let provider: any StepProvider
  let breaker: Breaker
  let health: Health
  let clock: ContinuousClock
  let logger: Logger

  /// - Parameter mayGiveUp: the payment has failed so often by itself that another failure ends its tries.
  func carryOut(_ work: StepWork, _ pass: Breaker.Pass, mayGiveUp: Bool, place: Place) async -> StepEnding {
    let known: PaymentLog.Loaded
    do throws(PaymentLogError) {
      guard let loaded = try log.load(work.id) else { throw PaymentLogError.missing(work.id) }
      known = loaded
    } catch {
      breaker.abandoned(pass, now: clock.now)
      if case .store(let cause) = error {
        return .retry(CallRetry(.notMade, reason: "can't read the payment: \(cause)"))
      }
      health.countSkippedEvent()
      logger.error("skipped a payment that can't be read", metadata: ["payment": "\(work.id)", "error": "\(error)"])
      return .finished(isAccepted: false)
    }
    guard known.payment.isDue(work.work), known.payment.delay(of: work.work) == work.delay else {
      breaker.abandoned(pass, now: clock.now)
      return .finished(isAccepted: false)
    }
    let outcome = await provider.perform(work.work, for: known.payment)
    if Task.isCancelled, case .retry = outcome {
      breaker.abandoned(pass, now: clock.now)
      return .abandoned
    }
    switch outcome {
    case .retry(let failure):
      if !failure.isOutage {
        breaker.succeeded(pass)
      } else if breaker.failed(pass, by: work.id, now: clock.now) {
        logger.error(
          "calls are held back for a while", metadata: ["to": "\(breaker.name)", "reason": "\(failure.reason)"])
      }
      if failure.cause == .misconfigured { return await giveUp(work, known, reason: failure.reason, place) }
      guard mayGiveUp else { return .retry(failure) }
      return await giveUp(
        work, known, reason: "\(failure.reason), again and again, while others went through", place)
    case .done(let command):
      breaker.succeeded(pass)
      return await record(command, of: work, as: known, isAccepted: true, place: place)
    case .declined(let reason), .refused(_, let reason):
      breaker.succeeded(pass)
      logger.notice(
        "declined", metadata: ["payment": "\(work.id)", "step": "\(work.work)", "reason": "\(reason)"])
      return await record(
        .decline(work.work, reason: reason), of: work, as: known, isAccepted: false, place: place)
    case .impossible(let reason):
      breaker.succeeded(pass)
      return await giveUp(work, known, reason: reason, place)
    }
  }

  private func giveUp(
    _ work: StepWork, _ known: PaymentLog.Loaded, reason: String, _ place: Place
  ) async -> StepEnding {
    logger.error(
      "gave a payment up", metadata: ["payment": "\(work.id)", "step": "\(work.work)", "reason": "\(reason)"])
    return await record(.giveUp(work.work, reason: reason), of: work, as: known, isAccepted: false, place: place)
  }

  /// Appends what came of a try together with the consumer's place.
  func record(
    _ command: PaymentCommand, of work: StepWork, as known: PaymentLog.Loaded?, isAccepted: Bool, place: Place
  ) async -> StepEnding {
    let place = await place()
    do {
      let cursor = CursorCommit(name: cursorName, place: place)
      switch try await log.record(command, on: work.id, as: known, cursor: cursor) {
      case .appended: return .finished(isAccepted: isAccepted, committed: place)
      case .refused(let refusal):
        logger.notice("a payment had moved on", metadata: ["payment": "\(work.id)", "state": "\(refusal)"])
      }
      return .finished(isAccepted: isAccepted)
    } catch {
      // The call is made again with the same key, and has no second effect.
      return .retry(CallRetry(.notMade, reason: "can't append: \(error)"))
    }
  }
}
