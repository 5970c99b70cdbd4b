import ArgumentParser
import RegisPay

/// The options of a server that limit what a client may use.
struct LimitArguments: ParsableArguments {
  private static let defaults = HTTPLimits()

  @Option(help: "Open connections; above this number the server closes those that have been idle longest.")
  var maxConnections = Self.defaults.connections

  @Option(help: "Open connections from one address; 0 means no limit.")
  var maxConnectionsPerAddress = 0

  @Option(help: "Requests on one connection that wait for their response.")
  var maxPipelined = Self.defaults.pipelinedRequests

  @Option(help: ArgumentHelp("Size of a request's head.", valueName: "bytes"))
  var maxHeadBytes = Self.defaults.headBytes

  @Option(help: ArgumentHelp("Number of a request's header fields.", valueName: "count"))
  var maxHeadFields = Self.defaults.headFields

  @Option(help: ArgumentHelp("Length of a request's path and query.", valueName: "bytes"))
  var maxURIBytes = Self.defaults.uriBytes

  @Option(help: ArgumentHelp("Size of a request's body, at most 65536.", valueName: "bytes"))
  var maxBodyBytes = Self.defaults.bodyBytes

  @Option(
    help: ArgumentHelp(
      """
      Heads in memory that have not arrived completely; above it the server refuses those that have been unfinished longest. At least \
      --max-head-bytes.
      """, valueName: "bytes"))
  var maxUnfinishedHeadBytes = Self.defaults.unfinishedHeadBytes

  @Option(
    help: ArgumentHelp(
      """
      Bodies in memory that have not arrived completely; above it the server refuses those that have been unfinished longest. At least \
      --max-body-bytes.
      """, valueName: "bytes"))
  var maxUnfinishedBodyBytes = Self.defaults.unfinishedBodyBytes

  @Option(help: ArgumentHelp("Seconds a client may take to send a request's head.", valueName: "seconds"))
  var headTimeout = Self.defaults.headTime.components.seconds

  @Option(help: ArgumentHelp("Seconds a client may take to send a request's body.", valueName: "seconds"))
  var bodyTimeout = Self.defaults.bodyTime.components.seconds

  @Option(help: ArgumentHelp("Seconds a client may leave a response unread.", valueName: "seconds"))
  var writeTimeout = Self.defaults.writeTime.components.seconds

  @Option(
    help: ArgumentHelp(
      "Unread responses in memory; above it the server closes connections that have been unread longest.",
      valueName: "bytes"))
  var maxUnreadBytes = Self.defaults.unreadBytes

  @Option(help: ArgumentHelp("Seconds a connection may be idle between requests.", valueName: "seconds"))
  var idleTimeout = Self.defaults.idleTime.components.seconds

  @Option(
    help: ArgumentHelp(
      """
      Average requests a second of one API key, or of one address if requests have no key. A burst of twice as many is \
      allowed; 0 means no limit. (default: 0 on a loopback address, otherwise 1000)
      """, valueName: "requests/second"))
  var rateLimit: Int?

  func validate() throws {
    let positive: [(String, Int64)] = [
      ("--max-connections", Int64(maxConnections)), ("--max-pipelined", Int64(maxPipelined)),
      ("--max-head-bytes", Int64(maxHeadBytes)), ("--max-head-fields", Int64(maxHeadFields)),
      ("--max-uri-bytes", Int64(maxURIBytes)), ("--max-body-bytes", Int64(maxBodyBytes)),
      ("--head-timeout", headTimeout), ("--body-timeout", bodyTimeout), ("--write-timeout", writeTimeout),
      ("--idle-timeout", idleTimeout), ("--max-unread-bytes", Int64(maxUnreadBytes)),
      ("--max-unfinished-head-bytes", Int64(maxUnfinishedHeadBytes)),
      ("--max-unfinished-body-bytes", Int64(maxUnfinishedBodyBytes)),
    ]
    try Self.check(positive)
    guard maxBodyBytes <= Self.defaults.bodyBytes else {
      throw ValidationError("--max-body-bytes must be at most \(Self.defaults.bodyBytes)")
    }
    guard maxConnectionsPerAddress >= 0 else {
      throw ValidationError("--max-connections-per-address must be 0 or more")
    }
    guard (0...1_000_000).contains(rateLimit ?? 0) else { throw ValidationError("--rate-limit must be 0 to 1000000") }
  }

  /// - Throws: for a limit that no limit can be.
  static func check(_ limits: [(name: String, value: Int64)]) throws {
    for (name, value) in limits where !(1...1_000_000_000).contains(value) {
      throw ValidationError("\(name) must be 1 to 1000000000")
    }
  }

  /// Whether the options fit each other.
  func checkTogether() throws {
    guard maxUnfinishedBodyBytes >= maxBodyBytes else {
      throw ValidationError("--max-unfinished-body-bytes must be at least --max-body-bytes, which is \(maxBodyBytes)")
    }
    guard maxUnfinishedHeadBytes >= maxHeadBytes else {
      throw ValidationError("--max-unfinished-head-bytes must be at least --max-head-bytes, which is \(maxHeadBytes)")
    }
  }

  func limits(isLoopback: Bool) -> HTTPLimits {
    var limits = HTTPLimits()
    limits.connections = maxConnections
    limits.connectionsPerAddress = maxConnectionsPerAddress == 0 ? nil : maxConnectionsPerAddress
    limits.pipelinedRequests = maxPipelined
    limits.headBytes = maxHeadBytes
    limits.headFields = maxHeadFields
    limits.uriBytes = maxURIBytes
    limits.bodyBytes = maxBodyBytes
    limits.unfinishedHeadBytes = maxUnfinishedHeadBytes
    limits.unfinishedBodyBytes = maxUnfinishedBodyBytes
    limits.headTime = .seconds(headTimeout)
    limits.bodyTime = .seconds(bodyTimeout)
    limits.writeTime = .seconds(writeTimeout)
    limits.unreadBytes = maxUnreadBytes
    limits.idleTime = .seconds(idleTimeout)
    let rate = rateLimit ?? (isLoopback ? 0 : 1_000)
    limits.requestsPerSecond = rate == 0 ? nil : rate
    return limits
  }
}

/// The options of a server that limit event streams.
struct StreamArguments: ParsableArguments {
  private static let defaults = HTTPLimits()

  @Option(help: "Open event streams.")
  var maxStreams = Self.defaults.streams

  @Option(help: "Open event streams of one API key, or of one address if requests have no key.")
  var maxStreamsPerClient = Self.defaults.streamsPerClient

  func validate() throws {
    try LimitArguments.check([
      ("--max-streams", Int64(maxStreams)), ("--max-streams-per-client", Int64(maxStreamsPerClient)),
    ])
  }

  func apply(to limits: inout HTTPLimits) {
    limits.streams = maxStreams
    limits.streamsPerClient = maxStreamsPerClient
  }
}
