extension StepConsumer {
  public struct Options: Sendable {
    /// Calls in flight that are neither slow nor for payments that have timed out; those have shares of their own.
    public var callLimit = 256
    /// A call that takes longer is slow and frees its slot; see ``CallSlots``. Together with ``callLimit`` it says how many
    /// first tries a second may hang before others wait: 256 in a quarter of a second are 1,024.
    public var slowAfter = Duration.milliseconds(250)
    /// Payments read and not finished, including those that wait for a retry. At the limit no more are read.
    public var unfinishedLimit = 10_000
    public var backoff = Backoff()
    /// A payment is parked, for a person to look at, when its tries fail this often while others' calls for the step succeed.
    /// Failures during an outage don't count.
    public var ownFailureLimit = 30
    /// A payment is parked after this many responses that its calls have a wrong address or form (404 and the like), unless
    /// others get the same.
    public var misconfiguredLimit = 5
    /// The same once the step may have been carried out, by an earlier try or because the response doesn't say: a person is
    /// needed in any case, and soon.
    public var misconfiguredLimitWhenTried = 3
    /// How long the other side keeps an idempotency key; nil for ever. A step that moves money and may have been carried out is
    /// not retried with an older key: its outcome is unknown.
    public var keyLifetime: Duration? = .seconds(24 * 60 * 60)
    /// A payment that has timed out this often waits on the log, however short the wait.
    public var timeoutsToDelay = 2
    /// A wait of at least this length goes on the log, if it is the payment's own: its tries have failed
    /// ``ownFailuresToDelay`` times while others' calls succeeded, or the other side asks for the wait.
    public var durableDelay = Duration.seconds(10)
    public var ownFailuresToDelay = 3
    /// The shortest time between two commits of the checkpoint alone, without an event.
    public var cursorInterval = Duration.seconds(1)
    /// How long calls in flight may take to end when the server stops. Their payments continue at the next start.
    public var stopLimit = Duration.seconds(5)

    public init() {}

    var slotLimits: CallSlots.Limits { .init(callLimit: callLimit, slowAfter: slowAfter) }

    /// The most calls in flight for a step.
    var mostCalls: Int { slotLimits.total }

    /// The backoff after a failure. Longer where others may get the same response: meanwhile their calls show whether all get
    /// it. Not longer where a person is needed soon.
    func backoff(_ failure: CallRetry) -> Backoff {
      guard failure.cause == .unclear || (failure.cause == .misconfigured && !failure.isDoubtful) else {
        return backoff
      }
      return Backoff(base: min(backoff.base * 20, backoff.cap), cap: backoff.cap)
    }
  }
}
