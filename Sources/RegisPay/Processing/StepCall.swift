import LogStore
import Logging

/// A step that an event requests.
struct StepRequest: Sendable {
  var id: PaymentID
  var work: PaymentWork
}

/// The work of a try, and its source.
enum StepWork: Sendable {
  /// Requested by the event at this offset.
  case read(UInt64, StepRequest)
  /// Its wait on the log is over.
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

  /// The wait that is over. If the payment has another one, that is newer, or is loaded when it is due.
  var delay: Delay? {
    if case .delayed(let item) = self { item.delay } else { nil }
  }
}

/// What two calls have in common that have one idempotency key.
struct CallKey: Hashable {
  private let id: PaymentID
  private let work: PaymentWork

  init(_ work: StepWork) { (id, self.work) = (work.id, work.work) }
}

/// How a try ended, for the consumer that began it.
enum StepEnding: Sendable {
  /// - Parameter committed: the checkpoint that was committed with the outcome.
  case finished(isAccepted: Bool, committed: UInt64 = 0)
  /// - Parameter isOutage: others fail alike, and the payment is not at fault.
  case retry(CallRetry, isOutage: Bool)
  /// The try was not made, or was cancelled; the work stays unfinished.
  case abandoned
}

/// One try of a step: loads the payment, calls the provider and appends the outcome.
///
/// Safe to use from any task: hundreds of tries run at once.
struct StepCall: Sendable {
  /// The consumer's checkpoint once the work is finished, to commit together with the outcome.
  typealias Checkpoint = @Sendable () -> UInt64
  /// How a try ended, and whether it may have been carried out while the log doesn't say so.
  private typealias Result = (ending: StepEnding, mayHaveHappened: Bool)

  let log: PaymentLog
  let cursorName: String
  let provider: any StepProvider
  let breakers: Breakers
  let health: Health
  let tries: Tries
  let tracing: Tracing
  let metrics: StepMetrics.Step
  let options: StepConsumer.Options
  let clock: ContinuousClock
  let logger: Logger

  /// - Parameters:
  ///   - ownFailures: how often the payment's calls for the step have failed while others' calls succeeded.
  ///   - stop: ends the call early.
  func carryOut(
    _ work: StepWork, _ pass: Breakers.Pass, ownFailures: Int, stop: CallStop, checkpoint: Checkpoint
  ) async -> StepEnding {
    let wasTriedHere = tries.begin(work.id, work.work)
    let (ending, mayHaveHappened) = await carryOut(
      work, pass, ownFailures: ownFailures, wasTriedHere: wasTriedHere, stop: stop, checkpoint: checkpoint)
    let isLast = if case .finished = ending { true } else { false }
    tries.end(work.id, work.work, mayHaveHappened: mayHaveHappened, isLast: isLast)
    if case .retry = ending { metrics.retries.add() }
    return ending
  }

  private func carryOut(
    _ work: StepWork, _ pass: Breakers.Pass, ownFailures: Int, wasTriedHere: Bool, stop: CallStop,
    checkpoint: Checkpoint
  ) async -> Result {
    let known: PaymentLog.Loaded
    do throws(PaymentLogError) {
      guard let loaded = try log.load(work.id) else { throw PaymentLogError.missing(work.id) }
      if let newer = loaded.newerEvent { throw PaymentLogError.newerEvent(work.id, newer) }
      known = loaded
    } catch {
      breakers.abandoned(pass, now: clock.now)
      if case .store(let cause) = error {
        return (.retry(CallRetry(.notMade, reason: "can't read the payment: \(cause)"), isOutage: true), false)
      }
      return (await skip(work, error, checkpoint), false)
    }
    guard known.payment.isDue(work.work), known.payment.delay(of: work.work) == work.delay else {
      breakers.abandoned(pass, now: clock.now)
      return (.finished(isAccepted: false), false)
    }
    guard log.gate.isOpen else {
      breakers.abandoned(pass, now: clock.now)
      return (.abandoned, false)
    }
    let trace = log.trace(of: work.work, in: known, keyLifetime: options.keyLifetime)
    let wasTried = wasTriedHere || trace.mayHaveHappened
    if let command = StepRule.commandWithoutCall(
      work.work, of: known.payment, mayHaveHappened: wasTried, age: log.age(of: trace),
      keyLifetime: options.keyLifetime)
    {
      breakers.abandoned(pass, now: clock.now)
      return await conclude(
        command, of: work, as: known, isAccepted: false, mayHaveHappened: wasTriedHere, checkpoint)
    }
    let outcome = await call(work, of: known, stop)
    if case .retry(let failure) = outcome, let ending = interrupted(pass, stop, failure) { return (ending, true) }
    // Another try in flight beside this one may have been carried out meanwhile.
    let mayHaveHappened = wasTried || tries.mayHaveHappenedBeside(work.id, work.work)
    guard case .retry(var failure) = outcome else {
      breakers.succeeded(pass, now: clock.now)
      let isAccepted = if case .done = outcome { true } else { false }
      guard
        let command = StepRule.command(
          for: outcome, of: work.work, mayHaveHappened: mayHaveHappened, isExhausted: true)
      else { preconditionFailure("only a retry has no command") }
      return await conclude(
        command, of: work, as: known, isAccepted: isAccepted, mayHaveHappened: true, checkpoint)
    }
    failure.isDoubtful = mayHaveHappened
    let isOutage = judge(failure, pass, work.id)
    guard
      let command = StepRule.command(
        for: .retry(failure), of: work.work, mayHaveHappened: mayHaveHappened,
        isExhausted: isExhausted(failure, isOutage: isOutage, ownFailures: ownFailures))
    else { return (.retry(failure, isOutage: isOutage), failure.mayHaveHappened) }
    return await conclude(command, of: work, as: known, isAccepted: false, mayHaveHappened: true, checkpoint)
  }

  /// Makes the call, and counts it.
  private func call(_ work: StepWork, of known: PaymentLog.Loaded, _ stop: CallStop) async -> CallOutcome {
    let start = MonotonicTime.nanoseconds
    let began = log.microseconds
    let context = CallContext(stop: stop, trace: tracing.context(of: work.work, in: known, began: began))
    let outcome = await CallContext.$current.withValue(context) {
      await provider.perform(work.work, for: known.payment)
    }
    var result = StepMetrics.CallResult(outcome)
    if case .retry = outcome, stop.isStopped || Task.isCancelled { result = .abandoned }
    let duration = MonotonicTime.nanoseconds - start
    metrics.count(result, nanoseconds: duration)
    tries.note(
      CallRecord(
        beganMicroseconds: began, durationMicroseconds: duration / 1_000,
        error: result == .accepted ? nil : result.rawValue),
      work.id, work.work)
    guard case .retry(var failure) = outcome else { return outcome }
    failure.span = context.trace.parent
    return .retry(failure)
  }

  /// The ending of a call that we ended before it had an outcome; nil for any other call. Such a call says nothing about the other
  /// side, which may still be carrying it out.
  private func interrupted(_ pass: Breakers.Pass, _ stop: CallStop, _ cancelled: CallRetry) -> StepEnding? {
    guard stop.isStopped || Task.isCancelled else { return nil }
    breakers.abandoned(pass, now: clock.now)
    guard stop.isStopped else { return .abandoned }
    let reason = stop.reason ?? "no response within \(options.slowAfter), and other calls waited for the slot"
    var failure = CallRetry(.timeout, reason: reason)
    failure.isDoubtful = true
    failure.span = cancelled.span
    return .retry(failure, isOutage: false)
  }

  /// Whether the failure ends the payment's tries.
  private func isExhausted(_ failure: CallRetry, isOutage: Bool, ownFailures: Int) -> Bool {
    guard failure.isJudgedByPayments else { return ownFailures >= options.ownFailureLimit }
    let mayHaveHappened = failure.isDoubtful || failure.mayHaveHappened
    let limit = mayHaveHappened ? options.misconfiguredLimitWhenTried : options.misconfiguredLimit
    return !isOutage && ownFailures + 1 >= limit
  }

  /// Records the outcome of a step.
  ///
  /// - Parameter mayHaveHappened: the result's value when the outcome could not be recorded.
  private func conclude(
    _ command: PaymentCommand, of work: StepWork, as known: PaymentLog.Loaded, isAccepted: Bool, mayHaveHappened: Bool,
    _ checkpoint: Checkpoint
  ) async -> (StepEnding, mayHaveHappened: Bool) {
    let ending = await record(command, of: work, as: known, isAccepted: isAccepted, checkpoint: checkpoint)
    guard case .finished(_, let committed) = ending else { return (ending, mayHaveHappened) }
    // The step was carried out, and the payment's state doesn't accept that.
    if isAccepted, committed == 0 { return (ending, true) }
    // The log now has the outcome of the step, and so of all its tries.
    tries.forget(work.id, work.work)
    return (ending, false)
  }

  /// Reports a call without a response that decides to the breakers.
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

  /// Skips a payment that refuses commands, so that the consumer's checkpoint doesn't wait for it. Records that on the log, so
  /// that the step is resumed when the payment can be read again; see ``SkippedWork``.
  func skip(_ work: StepWork, _ error: PaymentLogError, _ checkpoint: Checkpoint) async -> StepEnding {
    health.countSkippedEvent()
    metrics.count(.skipped)
    log.damage.skip(work.id, work.work, reason: "\(error)")
    // Work with a wait on the log is loaded again.
    guard case .read = work else { return .finished(isAccepted: false) }
    let checkpoint = checkpoint()
    let append = Append(
      [SkippedWork.event(.skipped, .init(id: work.id, work: work.work))],
      cursors: [CursorCommit(name: cursorName, checkpoint: checkpoint, mayLag: true)])
    do throws(LogStoreError) {
      _ = try await log.append(append)
      return .finished(isAccepted: false, committed: checkpoint)
    } catch {
      return .retry(CallRetry(.notMade, reason: "can't append: \(error)"), isOutage: true)
    }
  }

  /// Appends a wait to the log, which holds the work from then on.
  func delay(
    _ work: StepWork, _ wait: RetryPolicy.Wait, _ failure: CallRetry, checkpoint: Checkpoint
  ) async -> StepEnding {
    let now = log.waitTime.microseconds()
    let delay = Delay(
      work.work, untilMicroseconds: now + wait.duration.microseconds, attempts: wait.attempts,
      ownFailures: wait.ownFailures, reason: failure.reason, didTimeOut: failure.cause == .timeout,
      beganMicroseconds: now)
    let ending = await record(.delay(delay), of: work, as: nil, isAccepted: false, checkpoint: checkpoint)
    // The earlier wait is over and still on the log: the item is loaded again.
    if case .retry = ending, case .delayed = work { return .finished(isAccepted: false) }
    return ending
  }

  func logRetry(_ work: StepWork, _ failure: CallRetry, attempts: Int) {
    var fields: Logger.Metadata = [
      "payment": "\(work.id)", "step": "\(work.work)", "attempts": "\(attempts)", "reason": "\(failure.reason)",
      "trace_id": "\((failure.span?.trace ?? work.id.traceID).text)",
    ]
    if let span = failure.span { fields["span_id"] = "\(span.spanID)" }
    logger.warning("a step failed and will be tried again", metadata: fields)
  }

  /// For a line about a payment, which belongs to its trace.
  private func fields(of work: StepWork, _ known: PaymentLog.Loaded?, _ more: Logger.Metadata) -> Logger.Metadata {
    let trace = known?.namedTrace(of: work.work)?.parent.trace ?? work.id.traceID
    return ["payment": "\(work.id)", "step": "\(work.work)", "trace_id": "\(trace.text)"].merging(more) { $1 }
  }

  private func log(_ event: PaymentEvent, of work: StepWork, _ known: PaymentLog.Loaded?) {
    func fields(_ step: PaymentWork, _ reason: String) -> Logger.Metadata {
      self.fields(of: work, known, ["step": "\(step)", "reason": "\(reason)"])
    }
    switch event {
    case .failed(_, let reason, _), .refundFailed(_, let reason, _):
      logger.error("payment parked", metadata: fields(work.work, reason))
    case .outcomeUnknown(let unknown, let reason):
      logger.error("the outcome of a step is unknown", metadata: fields(unknown, reason))
    case .declined(_, let reason), .refundDeclined(_, let reason), .cancellationRefused(let reason):
      logger.notice("declined", metadata: fields(work.work, reason))
    default: break
    }
  }

  /// Reports an outcome that the payment's state doesn't allow.
  private func log(_ refusal: PaymentRefusal, of work: StepWork, isAccepted: Bool) {
    var metadata: Logger.Metadata = ["state": "\(refusal)"]
    var isKnown = false
    var loaded: PaymentLog.Loaded?
    do {
      loaded = try log.load(work.id)
      // The response to a repeat may come after another one that was recorded.
      if isAccepted { isKnown = loaded?.payment.isDone(work.work) ?? false }
    } catch {
      metadata["error"] = "\(error)"
    }
    // A person must look at a step that the other side has carried out and the payment's state doesn't allow.
    logger.log(
      level: isAccepted && !isKnown ? .error : .notice, "a payment had moved on",
      metadata: fields(of: work, loaded, metadata))
  }

  /// Appends the outcome of a try together with the consumer's checkpoint. While the log can't append, holds the outcome here and
  /// retries the append until it succeeds or the server stops: the call itself is not repeated.
  func record(
    _ command: PaymentCommand, of work: StepWork, as known: PaymentLog.Loaded?, isAccepted: Bool, checkpoint: Checkpoint
  ) async -> StepEnding {
    var command = command
    if case .delay(var delay) = command {
      // From now on the log says whether a try may have been carried out.
      delay.mayHaveHappened = tries.mayHaveHappened(work.id, work.work)
      command = .delay(delay)
    }
    var failures = 0
    while true {
      let checkpoint = checkpoint()
      do {
        let cursor = CursorCommit(name: cursorName, checkpoint: checkpoint, mayLag: true)
        let executed = try await log.record(
          command, of: work.work, on: work.id, calls: tries.calls(work.id, work.work), as: failures == 0 ? known : nil,
          cursor: cursor)
        if failures > 0 { log.gate.release(didAppend: true) }
        switch executed {
        case .appended(let events, _):
          for event in events { log(event, of: work, known) }
          // The same outcome recorded again appends nothing.
          if let outcome = events.compactMap(StepMetrics.Outcome.init).last { metrics.count(outcome) }
          if case .delay = command { tries.forget(work.id, work.work) }
          return .finished(isAccepted: isAccepted, committed: checkpoint)
        case .refused(let refusal): log(refusal, of: work, isAccepted: isAccepted)
        }
        return .finished(isAccepted: isAccepted)
      } catch {
        guard case .append(let cause) = error, RecordGate.isOfTheLog(cause) else {
          if failures > 0 { log.gate.release(didAppend: false) }
          if !error.isTransient { return await skip(work, error) { checkpoint } }
          // The call is repeated with the same key and has no second effect.
          return .retry(CallRetry(.notMade, reason: "can't record the outcome: \(error)"), isOutage: true)
        }
        if failures == 0 {
          log.gate.hold(cause)
          logger.error(
            "holds the outcome of a call until the log can append",
            metadata: fields(of: work, known, ["error": "\(cause)"]))
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
