/// What a client may use of the server. Each limit is there so that no client can keep others from being served.
public struct HTTPLimits: Sendable {
  /// Bytes of a request's first line and fields.
  public var headBytes = 32 << 10
  public var headFields = 100
  /// Bytes of the path with its query.
  public var uriBytes = 8 << 10
  /// Bytes of a body, however it is sent. Routes allow no more than 64 KiB themselves.
  public var bodyBytes = 64 << 10
  /// From a request's first byte to the end of its fields.
  public var headTime = Duration.seconds(10)
  /// From the end of the fields to the end of the body.
  public var bodyTime = Duration.seconds(30)
  /// How long a client may leave an answer unread that the system takes no more of.
  public var writeTime = Duration.seconds(30)
  /// Between two requests. More than the 30 seconds for which this server's own client keeps a connection.
  public var idleTime = Duration.seconds(75)
  /// Requests of one connection that are sent before the first of them is answered.
  public var pipelinedRequests = 32
  /// Connections at once, and at most half of the descriptors that the process may have. Over it, those that have waited
  /// longest for their client are closed. The server's own calls to its simulators don't count.
  public var connections = 8_192
  /// Connections at once from one address; nil for any number, as all of a proxy's come from one.
  public var connectionsPerAddress: Int?
  /// Requests a second of one key, or without a key of one address; nil for any number.
  public var requestsPerSecond: Int?
  /// Event streams that are open at once.
  public var streams = 256
  /// Event streams of one key, or without a key of one address, that are open at once.
  public var streamsPerClient = 64

  /// What may come at once, in seconds' worth of requests.
  public static let burstSeconds = 2

  public init() {}

  /// The number of connections that descriptors are there for as well: three of eight. ``SocketBudget``
  /// is for calls out, and as many for what they are to the simulator; the rest is for logs and databases.
  var connectionsPossible: Int { min(connections, max(1, DescriptorLimit.current / 8 * 3)) }
}
