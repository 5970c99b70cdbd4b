/// How webhooks are delivered.
public struct WebhookOptions: Sendable {
  /// Allows messages to this machine and to private networks, and without TLS.
  public var allowsPrivate = false
  /// For one try, from the look-up of the name to the end of the response.
  public var timeLimit = Duration.seconds(15)
  public var schedule = RetrySchedule()
  /// Messages in flight to one endpoint.
  public var callLimit = 8
  /// Events of one endpoint that wait for a retry. At this number, further events stay on the log.
  public var waitingLimit = 1_000
  /// Consecutive failures after which an endpoint gets one message at a time: messages that are due for a retry, and one new
  /// message every ``probeInterval``.
  public var failureLimit = 5
  public var probeInterval = Duration.seconds(5 * 60)
  /// How long the old secret also signs messages after a rotation.
  public var secretOverlap = Duration.seconds(24 * 3_600)
  /// The longest `Retry-After` of an endpoint that counts.
  public var retryAfterLimit = Duration.seconds(24 * 3_600)
  public var endpointLimit = 100
  /// Deliveries that are remembered for each endpoint.
  public var deliveryLimit = 10_000
  /// The shortest time between two commits of a checkpoint that only moves past unwanted events.
  public var cursorInterval = Duration.seconds(1)
  /// How long calls in flight may take to end when the server stops. A cancelled call is repeated after the next start.
  public var stopLimit = Duration.seconds(5)
  /// Starts even if the log says that endpoints are registered and none are stored.
  public var acceptsLoss = false
  var tracing = Tracing()
  var clock = WebhookClock.system
  var resolver = HostResolver.system
  /// The descriptors of connections to receivers.
  var sockets = SocketBudget.webhooks
  /// See ``WebhookJournal/open(_:health:willWrite:)``.
  var willWrite: WebhookJournal.WillWrite = { _ in }

  public init() {}
}
