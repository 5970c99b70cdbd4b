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
  /// - Parameter isOutage: others fail alike, and it is not this payment's fault.
  case retry(CallRetry, isOutage: Bool)
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
  let breakers: Breakers
  let health: Health
  let options: StepConsumer.Options
  let clock: ContinuousClock
  let logger: Logger

  /// - Parameter ownFailures: how often the payment's calls for the step have failed while others went through.
  func carryOut(_ work: StepWork, _ pass: Breakers.Pass, ownFailures: Int, place: Place) async -> StepEnding {
    let known: PaymentLog.Loaded
    do throws(PaymentLogError) {
      guard let loaded = try log.load(work.id) else { throw PaymentLogError.missing(work.id) }
      known = loaded
    } catch {
      breakers.abandoned(pass, now: clock.now)
      if case .store(let cause) = error {
        return .retry(CallRetry(.notMade, reason: "can't read the payment: \(cause)"), isOutage: true)
      }
      return await skip(work, error, place)
    }
    if let newer = known.newerEvent {
      breakers.abandoned(pass, now: clock.now)
      return await skip(work, .newerEvent(work.id, newer), place)
    }
    guard known.payment.isDue(work.work), known.payment.delay(of: work.work) == work.delay else {
      breakers.abandoned(pass, now: clock.now)
      return .finished(isAccepted: false)
    }
    guard log.gate.isOpen else {
      breakers.abandoned(pass, now: clock.now)
      return .abandoned
    }
    let outcome = await provider.perform(work.work, for: known.payment)
    if Task.isCancelled, case .retry = outcome {
      breakers.abandoned(pass, now: clock.now)
      return .abandoned
    }
    switch outcome {
    case .retry(let failure):
      let isOutage = judge(failure, pass, work.id)
      if failure.cause == .misconfigured {
        guard !isOutage, ownFailures + 1 >= options.misconfiguredLimit else {
          return .retry(failure, isOutage: isOutage)
        }
        return await giveUp(work, known, reason: "\(failure.reason), \(ownFailures + 1) times", place)
      }
      guard ownFailures >= options.ownFailureLimit else { return .retry(failure, isOutage: isOutage) }
      return await giveUp(
        work, known, reason: "\(failure.reason), again and again, while others went through", place)
    case .done(let command):
      breakers.succeeded(pass, now: clock.now)
      return await record(command, of: work, as: known, isAccepted: true, place: place)
    case .declined(let reason), .refused(_, let reason):
      breakers.succeeded(pass, now: clock.now)
      logger.notice(
        "declined", metadata: ["payment": "\(work.id)", "step": "\(work.work)", "reason": "\(reason)"])
      return await record(
        .decline(work.work, reason: reason), of: work, as: known, isAccepted: false, place: place)
    case .impossible(let reason):
      breakers.succeeded(pass, now: clock.now)
      return await giveUp(work, known, reason: reason, place)
    }
  }

  /// Tells the breakers of a call without an answer that decides.
  ///
  /// - Returns: whether others fail alike.
  private func judge(_ failure: CallRetry, _ pass: Breakers.Pass, _ payment: PaymentID) -> Bool {
    let judgement: Breaker.Judgement
    switch failure.cause {
    case .misconfigured:
      judgement = breakers.misaddressed(pass, by: payment, reason: failure.reason, now: clock.now)
    case _ where failure.isOutage:
      judgement = breakers.failed(pass, by: payment, reason: failure.reason, now: clock.now)
    default:
      breakers.succeeded(pass, now: clock.now)
      return false
    }
    if judgement.didOpen {
      logger.error(
        "circuit breaker opened", metadata: ["to": "\(breakers.shown.name)", "reason": "\(failure.reason)"])
    }
    return failure.isOutage || judgement.isOutage
  }

  /// Goes on without the payment, which can't be decided on: its consumer's place does not wait for it. That is put on the
  /// log, so that the step goes on when the payment can be read again; see ``SkippedWork``.
  private func skip(_ work: StepWork, _ error: PaymentLogError, _ place: Place) async -> StepEnding {
    health.countSkippedEvent()
    log.damage.skip(work.id, work.work, reason: "\(error)")
    // What waits for a time is told again by the list.
    guard case .read = work else { return .finished(isAccepted: false) }
    let place = await place()
    let append = Append(
      [SkippedWork.event(.skipped, .init(id: work.id, work: work.work))],
      cursors: [CursorCommit(name: cursorName, place: place)])
    do throws(LogStoreError) {
      _ = try await log.append(append)
      return .finished(isAccepted: false, committed: place)
    } catch {
      return .retry(CallRetry(.notMade, reason: "can't append: \(error)"), isOutage: true)
    }
  }

  private func giveUp(
    _ work: StepWork, _ known: PaymentLog.Loaded, reason: String, _ place: Place
  ) async -> StepEnding {
    logger.error(
      "gave a payment up", metadata: ["payment": "\(work.id)", "step": "\(work.work)", "reason": "\(reason)"])
    return await record(.giveUp(work.work, reason: reason), of: work, as: known, isAccepted: false, place: place)
  }

  /// Appends what came of a try together with the consumer's place. What the log can't take now is kept here and appended
  /// again, until it can or the server stops: the call is not repeated for it.
  func record(
    _ command: PaymentCommand, of work: StepWork, as known: PaymentLog.Loaded?, isAccepted: Bool, place: Place
  ) async -> StepEnding {
    var failures = 0
    while true {
      let place = await place()
      do {
        let cursor = CursorCommit(name: cursorName, place: place)
        let executed = try await log.record(command, on: work.id, as: failures == 0 ? known : nil, cursor: cursor)
        if failures > 0 { log.gate.release(didAppend: true) }
        switch executed {
        case .appended: return .finished(isAccepted: isAccepted, committed: place)
        case .refused(let refusal):
          logger.notice("a payment had moved on", metadata: ["payment": "\(work.id)", "state": "\(refusal)"])
        }
        return .finished(isAccepted: isAccepted)
      } catch {
        guard case .append(let cause) = error, RecordGate.isOfTheLog(cause) else {
          if failures > 0 { log.gate.release(didAppend: false) }
          if !error.isTransient { return await skip(work, error) { place } }
          // The call is made again with the same key, and has no second effect.
          return .retry(CallRetry(.notMade, reason: "can't record what came of it: \(error)"), isOutage: true)
        }
        if failures == 0 {
          log.gate.keep(cause)
          logger.error(
            "keeps what came of a call, since the log can't append",
            metadata: ["payment": "\(work.id)", "step": "\(work.work)", "error": "\(cause)"])
        }
        failures += 1
        // Ends early only when the server stops.
        try? await clock.sleep(for: RecordGate.backoff.delay(attempts: failures))
        if Task.isCancelled {
          log.gate.release(didAppend: false)
          return .abandoned
        }
      }
    }
  }
}
