/// The configuration of a simulator that runs by itself.
public struct SimulatorOptions: Sendable {
  /// The data directory: `ledger` holds the log, `keys.sqlite` the API keys. Created if it is missing. Never that of a ``Server``.
  public var directory: String
  public var host = "127.0.0.1"
  /// 0 lets the system choose one.
  public var port = 9090
  /// Speaks TLS with these files; nil for plain HTTP.
  public var tls: TLSFiles?
  /// How often the simulator checks whether these files have changed.
  var tlsInterval = Duration.seconds(5)
  /// The services that it stands for; the others have no routes.
  public var services = Set(Simulator.Service.allCases)
  /// The faults that it begins with; none for a service that is missing.
  public var faults: [Simulator.Service: Faults] = [:]
  /// Size of the log's segment files, in bytes. A new log takes as long as writing two of them.
  public var segmentBytes = 16 << 20
  /// Bytes a second at which the log's files are read again in the background to find damage; 0 turns it off.
  public var scrubBytesPerSecond: UInt64 = 8 << 20
  /// Limits for clients. There are no event streams.
  public var limits = HTTPLimits()
  /// Allows a start without keys on an address that other machines can reach.
  public var isInsecure = false
  /// Further host names that clients may use, without a port. See ``BrowserProtection``.
  public var allowedHosts: [String] = []
  /// How often the simulator checks whether keys were created or revoked.
  public var keyInterval = Duration.seconds(1)
  /// The lowest level that is logged.
  public var logLevel = LogLevel(.info)
  /// How long a stop may take. After four fifths all requests are cut off, and the log is closed.
  public var stopLimit = Duration.seconds(15)

  public init(directory: String) { self.directory = directory }

  /// Only programs on this machine can reach the simulator.
  public var isLoopback: Bool { ListenAddress.isLoopback(host) }
}
