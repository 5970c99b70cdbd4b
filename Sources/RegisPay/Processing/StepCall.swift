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
  let tries: Tries
  let options: StepConsumer.Options
  let clock: ContinuousClock
  let logger: Logger

  /// - Parameters:
  ///   - ownFailures: how often the payment's calls for the step have failed while others went through.
  ///   - stop: ends the call early.
  func carryOut(
    _ work: StepWork, _ pass: Breakers.Pass, ownFailures: Int, stop: CallStop, place: Place
  ) async -> StepEnding {
    let wasTriedHere = tries.begin(work.id, work.work)
    let (ending, mayHaveHappened) = await carryOut(
      work, pass, ownFailures: ownFailures, wasTriedHere: wasTriedHere, stop: stop, place: place)
    tries.end(work.id, work.work, mayHaveHappened: mayHaveHappened)
    return ending
  }

  /// - Returns: with the ending, whether a try may have been carried out that the log says nothing of.
  private func carryOut(
    _ work: StepWork, _ pass: Breakers.Pass, ownFailures: Int, wasTriedHere: Bool, stop: CallStop, place: Place
  ) async -> (StepEnding, mayHaveHappened: Bool) {
    let known: PaymentLog.Loaded
    do throws(PaymentLogError) {
      guard let loaded = try log.load(work.id) else { throw PaymentLogError.missing(work.id) }
      known = loaded
    } catch {
      breakers.abandoned(pass, now: clock.now)
      if case .store(let cause) = error {
        return (.retry(CallRetry(.notMade, reason: "can't read the payment: \(cause)"), isOutage: true), false)
      }
      return (await skip(work, error, place), false)
    }
    if let newer = known.newerEvent {
      breakers.abandoned(pass, now: clock.now)
      return (await skip(work, .newerEvent(work.id, newer), place), false)
    }
    guard known.payment.isDue(work.work), known.payment.delay(of: work.work) == work.delay else {
      breakers.abandoned(pass, now: clock.now)
      return (.finished(isAccepted: false), false)
    }
    guard log.gate.isOpen else {
      breakers.abandoned(pass, now: clock.now)
      return (.abandoned, false)
    }
    let trace = known.trace(of: work.work, openedAt: log.openedAt)
    let wasTried = wasTriedHere || trace.mayHaveHappened
    if let command = StepRule.commandWithoutCall(
      work.work, of: known.payment, mayHaveHappened: wasTried, age: log.age(of: trace),
      keyLifetime: options.keyLifetime)
    {
      breakers.abandoned(pass, now: clock.now)
      return await conclude(command, of: work, as: known, isAccepted: false, mayHaveHappened: wasTriedHere, place)
    }
    let outcome = await CallStop.$current.withValue(stop) { await provider.perform(work.work, for: known.payment) }
    if stop.isStopped, case .retry = outcome {
      // Other calls had waited for it to end: that says nothing about the other side, which may be at it still.
      breakers.abandoned(pass, now: clock.now)
      let reason = "no answer within \(options.slowAfter), and others waited for the call's place"
      var failure = CallRetry(.noAnswer, reason: reason)
      failure.isDoubtful = true
      return (.retry(failure, isOutage: false), true)
    }
    if Task.isCancelled, case .retry = outcome {
      breakers.abandoned(pass, now: clock.now)
      return (.abandoned, true)
    }
    // Also what another try in flight beside this one may have done meanwhile.
    let mayHaveHappened = wasTried || tries.mayHaveHappenedBeside(work.id, work.work)
    guard case .retry(var failure) = outcome else {
      breakers.succeeded(pass, now: clock.now)
      let isAccepted = if case .done = outcome { true } else { false }
      guard
        let command = StepRule.command(
          for: outcome, of: work.work, mayHaveHappened: mayHaveHappened, isExhausted: true)
      else { preconditionFailure("only a retry can come without a command") }
      return await conclude(command, of: work, as: known, isAccepted: isAccepted, mayHaveHappened: true, place)
    }
    failure.isDoubtful = mayHaveHappened
    let isOutage = judge(failure, pass, work.id)
    guard
      let command = StepRule.command(
        for: .retry(failure), of: work.work, mayHaveHappened: mayHaveHappened,
        isExhausted: isExhausted(failure, isOutage: isOutage, ownFailures: ownFailures))
    else { return (.retry(failure, isOutage: isOutage), failure.mayHaveHappened) }
    return await conclude(command, of: work, as: known, isAccepted: false, mayHaveHappened: true, place)
  }

  /// Whether this failure ends the payment's tries.
  private func isExhausted(_ failure: CallRetry, isOutage: Bool, ownFailures: Int) -> Bool {
    guard failure.isJudgedByPayments else { return ownFailures >= options.ownFailureLimit }
    let mayHaveHappened = failure.isDoubtful || failure.mayHaveHappened
    let limit = mayHaveHappened ? options.misconfiguredLimitWhenTried : options.misconfiguredLimit
    return !isOutage && ownFailures + 1 >= limit
  }

  /// Records what became of a step.
  ///
  /// - Parameter mayHaveHappened: what is to be remembered of the tries if nothing could be recorded.
  private func conclude(
    _ command: PaymentCommand, of work: StepWork, as known: PaymentLog.Loaded, isAccepted: Bool, mayHaveHappened: Bool,
    _ place: Place
  ) async -> (StepEnding, mayHaveHappened: Bool) {
    switch command {
    case .giveUp(_, let reason), .markUnknown(_, let reason):
      let isUnknown = if case .markUnknown = command { true } else { false }
      logger.error(
        isUnknown ? "the outcome of a step is unknown" : "gave a payment up",
        metadata: ["payment": "\(work.id)", "step": "\(work.work)", "reason": "\(reason)"])
    case .decline(_, let reason), .recordCancellationRefused(let reason):
      logger.notice("declined", metadata: ["payment": "\(work.id)", "step": "\(work.work)", "reason": "\(reason)"])
    default: break
    }
    let ending = await record(command, of: work, as: known, isAccepted: isAccepted, place: place)
    guard case .finished(_, let committed) = ending else { return (ending, mayHaveHappened) }
    // It was done, and no state takes it.
    if isAccepted, committed == 0 { return (ending, true) }
    // What became of the step is on the log, and of all its tries with it.
    tries.forget(work.id, work.work)
    return (ending, false)
  }

  /// Tells the breakers of a call without an answer that decides.
  ///
  /// - Returns: whether others fail alike.
  private func judge(_ failure: CallRetry, _ pass: Breakers.Pass, _ payment: PaymentID) -> Bool {
    let judgement: Breaker.Judgement
    switch failure.cause {
    case _ where failure.isJudgedByPayments:
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
      cursors: [CursorCommit(name: cursorName, checkpoint: place, mayLag: true)])
    do throws(LogStoreError) {
      _ = try await log.append(append)
      return .finished(isAccepted: false, committed: place)
    } catch {
      return .retry(CallRetry(.notMade, reason: "can't append: \(error)"), isOutage: true)
    }
  }

  /// Appends what came of a try together with the consumer's place. What the log can't take now is kept here and appended
  /// again, until it can or the server stops: the call is not repeated for it.
  func record(
    _ command: PaymentCommand, of work: StepWork, as known: PaymentLog.Loaded?, isAccepted: Bool, place: Place
  ) async -> StepEnding {
    var command = command
    if case .delay(var delay) = command {
      // From now on it is the log that tells what the tries so far may have done.
      delay.mayHaveHappened = tries.mayHaveHappened(work.id, work.work)
      command = .delay(delay)
    }
    var failures = 0
    while true {
      let place = await place()
      do {
        let cursor = CursorCommit(name: cursorName, checkpoint: place, mayLag: true)
        let executed = try await log.record(command, on: work.id, as: failures == 0 ? known : nil, cursor: cursor)
        if failures > 0 { log.gate.release(didAppend: true) }
        switch executed {
        case .appended:
          if case .delay = command { tries.forget(work.id, work.work) }
          return .finished(isAccepted: isAccepted, committed: place)
        case .refused(let refusal):
          // What the other side has done and no state allows is for a person to look at.
          logger.log(
            level: isAccepted ? .error : .notice, "a payment had moved on",
            metadata: ["payment": "\(work.id)", "step": "\(work.work)", "state": "\(refusal)"])
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
