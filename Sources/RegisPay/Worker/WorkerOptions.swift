/// What a worker takes, from where, and whom it calls.
public struct WorkerOptions: Sendable {
  public var broker: BrokerOptions
  /// The server's address, such as `http://127.0.0.1:8080`.
  public var serverURL: String
  public var serverKey: String?
  public var serverTLS = ClientTLS()
  public var steps: [PaymentStep] = PaymentStep.allCases
  /// Messages of one step that the worker has at once.
  public var prefetch = 64
  /// The PSP's base URL; nil if no step is its.
  public var pspURL: String?
  public var pspToken: String?
  /// The notification service's base URL; nil if no step is its.
  public var notificationsURL: String?
  public var notificationsToken: String?
  /// How long calls in flight may take to end when the worker stops.
  public var stopLimit = Duration.seconds(15)

  /// For a call; if the server says less, that holds.
  public var callTimeLimit = Duration.seconds(10)

  public init(broker: BrokerOptions, serverURL: String) {
    self.broker = broker
    self.serverURL = serverURL
  }
}
