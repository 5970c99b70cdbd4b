/// How the calls of each step end, how long they take, and what becomes of the steps.
///
/// All counters exist from the start, so counting takes no lock and no look-up. Safe to use from any task.
public final class StepMetrics: Sendable {
  /// How a call ended.
  enum CallResult: String, Sendable, CaseIterable {
    case accepted, declined, refused, impossible, unreadable
    /// We ended it before it had an outcome: the server stops, or others needed its slot.
    case abandoned
    case notMade = "not_made"
    case unreachable, timeout, broken
    case serverError = "server_error"
    case inProgress = "in_progress"
    case busy, credentials, misconfigured, unclear

    init(_ outcome: CallOutcome) {
      switch outcome {
      case .done: self = .accepted
      case .declined: self = .declined
      case .refused: self = .refused
      case .impossible: self = .impossible
      case .unreadable: self = .unreadable
      case .retry(let failure):
        switch failure.cause {
        case .notMade: self = .notMade
        case .unreachable: self = .unreachable
        case .timeout: self = .timeout
        case .broken: self = .broken
        case .serverError: self = .serverError
        case .inProgress: self = .inProgress
        case .busy: self = .busy
        case .credentials: self = .credentials
        case .misconfigured: self = .misconfigured
        case .unclear: self = .unclear
        }
      }
    }
  }

  /// What a step's consumer recorded on the log.
  enum Outcome: String, Sendable, CaseIterable {
    case done, declined, parked, unknown, delayed, skipped

    /// Nil for an event that is not what became of a step.
    init?(_ event: PaymentEvent) {
      switch event {
      case .declined, .refundDeclined, .cancellationRefused: self = .declined
      case .failed, .refundFailed: self = .parked
      case .outcomeUnknown: self = .unknown
      case .delayed: self = .delayed
      case .created, .settled, .cancelled, .completed, .refunded: self = .done
      case .initiated, .cancellationRequested, .retried, .refundRequested, .outcomeResolved: return nil
      }
    }
  }

  /// The counters of one step.
  final class Step: Sendable {
    /// Milliseconds; the time limit of a call is 10 seconds unless another is configured.
    private static let bounds: [Double] = [
      1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
    ]

    let duration = DurationHistogram(milliseconds: Step.bounds)
    let retries = MetricCounter()
    private let calls = CounterTable<CallResult>()
    private let outcomes = CounterTable<Outcome>()

    /// Counts a call.
    ///
    /// - Parameter nanoseconds: how long it took.
    func count(_ result: CallResult, nanoseconds: UInt64) {
      duration.record(nanoseconds: nanoseconds)
      calls.add(result)
    }

    func count(_ outcome: Outcome) { outcomes.add(outcome) }

    fileprivate var counts: (calls: [(String, UInt64)], outcomes: [(String, UInt64)]) {
      (calls.counts, outcomes.counts)
    }
  }

  private let create = Step(), settle = Step(), cancel = Step(), notify = Step(), refund = Step()

  public init() {}

  subscript(step: PaymentStep) -> Step {
    switch step {
    case .create: create
    case .settle: settle
    case .cancel: cancel
    case .notify: notify
    case .refund: refund
    }
  }

  var families: [MetricFamily] {
    var calls = MetricFamily(
      "regispay_step_calls", .counter, "Calls to the PSP and the notification service, by their end.")
    var durations = MetricFamily("regispay_step_call_duration_seconds", .histogram, "Time of these calls.")
    var retries = MetricFamily("regispay_step_retries", .counter, "Tries of a step that lead to another try.")
    var outcomes = MetricFamily("regispay_step_outcomes", .counter, "What was recorded on the log about steps.")
    for step in PaymentStep.allCases {
      let metrics = self[step]
      let label = MetricFamily.Label("step", step.rawValue)
      let counts = metrics.counts
      for (result, count) in counts.calls { calls.add([label, .init("outcome", result)], count) }
      durations.add([label], .histogram(metrics.duration.snapshot))
      retries.add([label], metrics.retries.value)
      for (outcome, count) in counts.outcomes { outcomes.add([label, .init("outcome", outcome)], count) }
    }
    return [calls, durations, retries, outcomes]
  }
}
