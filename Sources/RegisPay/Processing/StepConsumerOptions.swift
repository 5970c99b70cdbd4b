extension StepConsumer {
  public struct Options: Sendable {
    /// Calls out at once that are neither slow nor for payments that have hung; those have shares beside it.
    public var callLimit = 256
    /// A call that is out for longer is slow, and leaves its slot to others; see ``CallSlots``. With ``callLimit`` it says
    /// how many first tries a second may hang before others wait: 256 in a quarter of a second are 1,024.
    public var slowAfter = Duration.milliseconds(250)
    /// Payments read and not finished, waiting for a retry included; with that many no further ones are read.
    public var unfinishedLimit = 10_000
    public var backoff = Backoff()
    /// A payment whose tries fail this often while the same step goes through for others is given up, for a person to
    /// look at. Failures during an outage don't count.
    public var ownFailureLimit = 30
    /// A payment is given up after so many answers that the address or the form of its calls is wrong (404 and the like),
    /// unless others get the same.
    public var misconfiguredLimit = 5
    /// The same once the step may have been carried out, by an earlier try or since the answer doesn't tell: a person is
    /// needed anyway, and soon.
    public var misconfiguredLimitWhenTried = 3
    /// How long the other side keeps an idempotency key; nil for ever. After that a step that moves money and may have been
    /// carried out is not tried again: its outcome is unknown.
    public var keyLifetime: Duration? = .seconds(24 * 60 * 60)
    /// A payment that was not answered in time so often waits on the log, however long.
    public var timeoutsToDelay = 2
    /// A wait from this length on goes on the log, if it is the payment's own: it has failed ``ownFailuresToDelay`` times
    /// while others went through, or the other side asked for it.
    public var durableDelay = Duration.seconds(10)
    public var ownFailuresToDelay = 3
    /// How often at most the cursor is moved without an event of ours.
    public var cursorInterval = Duration.seconds(1)
    /// How long calls under way may take to end when the server stops. Their payments go on at the next start.
    public var stopLimit = Duration.seconds(5)

    public init() {}

    var slotLimits: CallSlots.Limits { .init(callLimit: callLimit, slowAfter: slowAfter) }

    /// The most calls that are out at once for a step.
    var mostCalls: Int { slotLimits.total }

    /// Longer where others may get the same answer: meanwhile they show whether it is so for all. Not where a person is
    /// needed soon.
    func backoff(_ failure: CallRetry) -> Backoff {
      guard failure.cause == .unclear || (failure.cause == .misconfigured && !failure.isDoubtful) else {
        return backoff
      }
      return Backoff(base: min(backoff.base * 20, backoff.cap), cap: backoff.cap)
    }
  }

  /// How far the consumer is, for people to see.
  public struct Progress: Sendable {
    public var step: PaymentStep
    public var name: String
    /// The lowest unfinished offset.
    public var place: UInt64
    /// Up to where that is durable.
    public var committed: UInt64
    public var callsUnderWay: Int
    /// Those of them that are out for longer than ``Options/slowAfter``, without payments that have hung before.
    public var slowCalls: Int
    /// Payments read and not finished.
    public var unfinished: Int
    /// Payments whose last try failed.
    public var waiting: Int
    /// The one that holds calls back, or would.
    public var breaker: Breaker
  }
}
