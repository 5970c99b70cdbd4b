/// Limits on what a client may use. Each exists so that no client can keep the server from serving others.
public struct HTTPLimits: Sendable {
  /// Bytes of a request's first line and fields.
  public var headBytes = 32 << 10
  public var headFields = 100
  /// Bytes of the path with its query.
  public var uriBytes = 8 << 10
  /// Bytes of a body, chunked or not. Routes themselves allow at most 64 KiB.
  public var bodyBytes = 64 << 10
  /// Bytes of heads that have not arrived completely, over all connections; at least ``headBytes``. Above it, the server refuses
  /// those that have been unfinished longest. A head that arrives with one read does not count.
  public var unfinishedHeadBytes = 32 << 20
  /// Bytes of bodies that have not arrived completely, over all connections; at least ``bodyBytes``. Above it, the server refuses
  /// those that have been unfinished longest. 4 KiB for each of 8,192 connections, or 512 of the largest bodies; a body that arrives with one
  /// read does not count.
  public var unfinishedBodyBytes = 32 << 20
  /// From a request's first byte to the end of its fields.
  public var headTime = Duration.seconds(10)
  /// From the end of the fields to the end of the body.
  public var bodyTime = Duration.seconds(30)
  /// How long a client may leave a response unread once the system's buffers are full.
  public var writeTime = Duration.seconds(30)
  /// Bytes of unread responses in memory, over all connections. Above it, the server closes connections that have been unread
  /// longest.
  public var unreadBytes = 64 << 20
  /// Between two requests. Longer than the 30 seconds for which this server's own client keeps a connection.
  public var idleTime = Duration.seconds(75)
  /// Requests that one connection may have waiting. The server reads more only after it has responded to all but one.
  public var pipelinedRequests = 32
  /// Open connections, and at most ``connectionsPossible``. Above it, the server closes those that have waited longest for
  /// their client. The server's own calls to its simulators don't count.
  public var connections = 8_192
  /// Open connections from one address; nil for no limit, because all clients of a proxy have its address.
  public var connectionsPerAddress: Int?
  /// Requests a second of one API key, or of one address for requests without a key; nil for no limit.
  public var requestsPerSecond: Int?
  /// Open event streams.
  public var streams = 256
  /// Open event streams of one API key, or of one address for requests without a key.
  public var streamsPerClient = 64

  /// Requests that may arrive at once, in seconds at the limited rate.
  public static let burstSeconds = 2

  public init() {}

  /// Connections that the descriptors suffice for: three eighths of them. ``SocketBudget`` takes a share for calls out, and the
  /// simulator needs as many for its side of these calls; the rest is for logs and databases.
  var connectionsPossible: Int { connectionsPossible(descriptors: DescriptorLimit.current) }

  /// As ``connectionsPossible``, for another limit of descriptors.
  func connectionsPossible(descriptors: Int) -> Int { min(connections, max(1, descriptors / 8 * 3)) }
}
