/// How webhooks are delivered.
public struct WebhookOptions: Sendable {
  /// Lets messages go to this machine and to private networks, and unencrypted.
  public var allowsPrivate = false
  /// For one try, from the look-up of the name to the end of the answer.
  public var timeLimit = Duration.seconds(15)
  public var schedule = RetrySchedule()
  /// Calls to one endpoint at once.
  public var callLimit = 8
  /// Events of one endpoint that wait for another try; with that many, further ones stay on the log.
  public var waitingLimit = 1_000
  /// After so many failures in a row an endpoint gets one message at a time: what is due to be tried again, and of
  /// others one each ``probeInterval``.
  public var failureLimit = 5
  public var probeInterval = Duration.seconds(5 * 60)
  /// How long an old secret goes on signing after a rotation.
  public var secretOverlap = Duration.seconds(24 * 3_600)
  /// The longest that an endpoint may ask to be left alone.
  public var retryAfterLimit = Duration.seconds(24 * 3_600)
  public var endpointLimit = 100
  /// Tries that are remembered for each endpoint.
  public var deliveryLimit = 10_000
  /// How often at most the cursor is moved past events that an endpoint does not want.
  public var cursorInterval = Duration.seconds(1)
  /// How long calls under way may take to end when the server stops; they are made again at the next start.
  public var stopLimit = Duration.seconds(5)
  /// Starts also where the log says that endpoints were registered, and there are none.
  public var acceptsLoss = false
  var clock = WebhookClock.system
  var resolver = HostResolver.system
  /// Of the connections to receivers.
  var sockets = SocketBudget.process
  /// See ``WebhookJournal/open(_:health:willWrite:)``.
  var willWrite: WebhookJournal.WillWrite = { _ in }

  public init() {}
}
