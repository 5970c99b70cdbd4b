import ArgumentParser
import RegisPay

/// The options of `serve` that say what a client may use.
struct LimitArguments: ParsableArguments {
  private static let defaults = HTTPLimits()

  @Option(help: "The connections at once; over it those that are idle longest are closed.")
  var maxConnections = Self.defaults.connections

  @Option(help: "The connections at once from one address; 0 for any number.")
  var maxConnectionsPerAddress = 0

  @Option(help: "The requests of one connection that are not answered yet.")
  var maxPipelined = Self.defaults.pipelinedRequests

  @Option(help: ArgumentHelp("The size of a request's head.", valueName: "bytes"))
  var maxHeadBytes = Self.defaults.headBytes

  @Option(help: ArgumentHelp("The number of a request's fields.", valueName: "count"))
  var maxHeadFields = Self.defaults.headFields

  @Option(help: ArgumentHelp("The length of a request's path and query.", valueName: "bytes"))
  var maxURIBytes = Self.defaults.uriBytes

  @Option(help: ArgumentHelp("The size of a request's body, 65536 at most.", valueName: "bytes"))
  var maxBodyBytes = Self.defaults.bodyBytes

  @Option(help: ArgumentHelp("The time that a request's head may take.", valueName: "seconds"))
  var headTimeout = Self.defaults.headTime.components.seconds

  @Option(help: ArgumentHelp("The time that a request's body may take.", valueName: "seconds"))
  var bodyTimeout = Self.defaults.bodyTime.components.seconds

  @Option(help: ArgumentHelp("The time that a client may leave an answer unread.", valueName: "seconds"))
  var writeTimeout = Self.defaults.writeTime.components.seconds

  @Option(help: ArgumentHelp("The time that a connection may be idle.", valueName: "seconds"))
  var idleTimeout = Self.defaults.idleTime.components.seconds

  @Option(help: "The event streams that are open at once.")
  var maxStreams = Self.defaults.streams

  @Option(help: "The event streams of one key, or without one of one address, that are open at once.")
  var maxStreamsPerClient = Self.defaults.streamsPerClient

  @Option(
    help: ArgumentHelp(
      """
      The requests that a key, or without one an address, may make on average; twice as many may come at once. 0 for any \
      number. (default: 0 on this machine's own addresses, otherwise 1000)
      """, valueName: "requests/second"))
  var rateLimit: Int?

  func validate() throws {
    let positive: [(String, Int64)] = [
      ("--max-connections", Int64(maxConnections)), ("--max-pipelined", Int64(maxPipelined)),
      ("--max-head-bytes", Int64(maxHeadBytes)), ("--max-head-fields", Int64(maxHeadFields)),
      ("--max-uri-bytes", Int64(maxURIBytes)), ("--max-body-bytes", Int64(maxBodyBytes)),
      ("--head-timeout", headTimeout), ("--body-timeout", bodyTimeout), ("--write-timeout", writeTimeout),
      ("--idle-timeout", idleTimeout), ("--max-streams", Int64(maxStreams)),
      ("--max-streams-per-client", Int64(maxStreamsPerClient)),
    ]
    for (name, value) in positive where !(1...1_000_000_000).contains(value) {
      throw ValidationError("\(name) is 1 or more")
    }
    guard maxBodyBytes <= Self.defaults.bodyBytes else {
      throw ValidationError("--max-body-bytes is \(Self.defaults.bodyBytes) at most")
    }
    guard maxConnectionsPerAddress >= 0 else { throw ValidationError("--max-connections-per-address is 0 or more") }
    guard (0...1_000_000).contains(rateLimit ?? 0) else { throw ValidationError("--rate-limit is 0 to 1000000") }
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
    limits.headTime = .seconds(headTimeout)
    limits.bodyTime = .seconds(bodyTimeout)
    limits.writeTime = .seconds(writeTimeout)
    limits.idleTime = .seconds(idleTimeout)
    limits.streams = maxStreams
    limits.streamsPerClient = maxStreamsPerClient
    let rate = rateLimit ?? (isLoopback ? 0 : 1_000)
    limits.requestsPerSecond = rate == 0 ? nil : rate
    return limits
  }
}
