/// A call that a worker is to make, in another process: all that it needs to know, as it has no log.
struct WorkOrder: Sendable, Hashable {
  /// Names the call when its outcome is reported. Unguessable, so that a response can't be made up.
  var token: String
  var work: PaymentWork
  /// With what a call needs of it, and no more.
  var payment: Payment
  var trace: TraceContext?
  /// For the call. It must not begin later.
  var timeLimit: Duration
}

/// What a worker is to do with a message.
enum WorkAnswer: Sendable, Hashable {
  /// Acknowledge it: there is nothing to do, or it is done.
  case acknowledge
  /// Keep it for this time, and ask again.
  case wait(Duration)
  /// Keep it for this time, and give it back to the broker, which counts that.
  case giveBack(Duration)
  /// Make this call, and report its outcome.
  case call(WorkOrder)
}

/// One try whose call a worker makes. The try runs here as any other; its call is handed out, and its outcome comes back.
///
/// Safe to use from any task.
final class HandedCall: Sendable {
  /// Of the try that the task makes.
  @TaskLocal static var current: HandedCall?

  /// 256 random bits.
  let token = hexadecimal(randomBytes(32))
  let stop = CallStop()
  /// The response to the worker's question: the call, or, if there is none, what to do with the message.
  let answer = Promise<WorkAnswer>()
  /// The response to the worker's report: what to do with the message.
  let ending = Promise<WorkAnswer>()
  private let outcome = Promise<CallOutcome>()
  private let timeLimit: Duration
  private let reportLimit: Duration

  /// - Parameters:
  ///   - timeLimit: for the call.
  ///   - reportLimit: after the call's time limit the report must have come within this time.
  init(timeLimit: Duration, reportLimit: Duration) { (self.timeLimit, self.reportLimit) = (timeLimit, reportLimit) }

  /// The outcome, as the worker reports it. One that comes too late changes nothing.
  func report(_ outcome: CallOutcome) { self.outcome.keep(outcome) }

  /// Hands the call out, and waits for its outcome.
  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    answer.keep(
      .call(
        WorkOrder(
          token: token, work: work, payment: payment, trace: CallContext.current?.trace, timeLimit: timeLimit)))
    let limit = timeLimit + reportLimit
    let timer = Task { [self] in
      // Ends early only when the outcome is known.
      try? await Task.sleep(for: limit)
      guard !Task.isCancelled else { return }
      // The other side is not at fault: no breaker counts this.
      stop.stop(because: "the worker has reported no outcome within \(limit); it may have ended")
      outcome.keep(Self.unreported)
    }
    defer { timer.cancel() }
    return await withTaskCancellationHandler {
      await outcome.value
    } onCancel: {
      outcome.keep(Self.unreported)
    }
  }

  private static let unreported = CallOutcome.retry(CallRetry(.timeout, reason: "the worker has reported no outcome"))
}

/// Has a worker make the calls. Used by tries that ``WorkDesk`` makes.
struct HandedProvider: StepProvider {
  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    guard let call = HandedCall.current else {
      return .retry(CallRetry(.notMade, reason: "no worker has asked for the call"))
    }
    return await call.perform(work, for: payment)
  }
}
