import LogStore

/// A server's configuration. Every duration and limit can be changed, so that tests need not wait.
public struct ServerOptions: Sendable {
  /// The data directory: `payments` holds the payments log, `simulator` the simulator's log, `projection` the list derived from the
  /// payments log, `webhooks` the endpoints and their secrets. Created if it is missing.
  public var directory: String
  /// Lets the group read the logs: new directories get mode 0750, new files 0640. Keys, webhooks and the list of payments are readable
  /// by the process's user only in any case. Existing files keep their mode.
  public var allowsGroup = false
  public var host = "127.0.0.1"
  /// 0 lets the system choose one.
  public var port = 8080
  /// A socket that listens already, at ``host`` and ``port``; nil to make one.
  public var socket: Int32?
  /// Speaks TLS on ``port`` with these files; nil for plain HTTP.
  public var tls: TLSFiles?
  /// How often the server checks whether these files have changed.
  var tlsInterval = Duration.seconds(5)
  /// A further address, which serves only `/metrics` and `/alive` and asks for no key; nil for none. `/metrics` is on ``port`` in any
  /// case, for keys with scope `read`. One that is not loopback needs ``isInsecure``.
  public var metricsAddress: Address?
  /// Where the PSP is; nil for the simulator in this server.
  public var pspURL: String?
  /// Sent to that PSP as `Authorization: Bearer`; nil to send none.
  public var pspToken: String?
  /// Allows a start with another PSP than the one that the payments of the directory were made with.
  public var acceptsNewPSP = false
  /// Where the notification service is; nil for the simulator in this server.
  public var notificationsURL: String?
  /// Sent to that service as `Authorization: Bearer`; nil to send none.
  public var notificationsToken: String?
  /// Refuses a start that would use the simulator for the PSP or the notification service.
  public var refusesSimulator = false
  /// Parts that don't run.
  public var switchedOff: Set<Part> = []
  /// For one try of a call out.
  public var callTimeLimit = Duration.seconds(10)
  public var breaker = Breaker.Options()
  public var consumer = StepConsumer.Options()
  /// How long a client's idempotency key is kept.
  public var requestLifetime = Duration.seconds(24 * 60 * 60)
  public var webhooks = WebhookOptions()
  /// Where integration events are published; nil for nowhere.
  public var broker: BrokerOptions?
  /// Workers in other processes make the calls of steps, and take them from queues of the broker.
  public var stepsFromBroker = false
  /// How long a stop may take. Calls and webhooks in flight get a third of it, at most 5 seconds. After four fifths all requests are
  /// cut off, and the logs are closed.
  public var stopLimit = Duration.seconds(15)
  /// Size of the payments log's segment files, in bytes. A new log takes as long as writing two of them.
  public var segmentBytes = 32 << 20
  /// The allowed sizes, in bytes.
  public static let segmentByteRange = Limits.segmentBytes
  /// Size of the simulator log's segment files, in bytes.
  public var simulatorSegmentBytes = 16 << 20
  /// How long the logs' syncs wait for more appends to join them, under load.
  var gatherMilliseconds: UInt32 = 1
  /// Bytes a second at which the logs' files are read again in the background to find damage; 0 turns it off.
  public var scrubBytesPerSecond: UInt64 = 8 << 20

  /// Where `regispay backup` keeps the backups of this server, to show how old the latest one is; nil if that isn't known.
  public var backup: String?
  /// How often the server looks there.
  var backupInterval = Duration.seconds(10)

  /// Limits for clients.
  public var limits = HTTPLimits()
  /// Allows a start without keys on an address that other machines can reach.
  public var isInsecure = false
  /// Further host names that clients may use, without a port. See ``BrowserProtection``.
  public var allowedHosts: [String] = []
  /// Proxies in front of the server, whose `X-Forwarded-For` tells a client's address.
  public var trustedProxies = TrustedProxies()
  /// How often the server checks whether keys were created or revoked.
  public var keyInterval = Duration.seconds(1)
  /// The lowest level that the server logs; `PUT /api/v1/logging` changes it.
  public var logLevel = LogLevel(.info)
  /// What an operator sees of all these; none if no command has read them.
  public var settings = SettingsInForce()
  /// Where traces of payments go, and which.
  public var tracing = TraceOptions()
  public var logExport = LogExportOptions()
  /// That the server's logger puts lines into, if they are sent; made by ``LogExportOptions/makeQueue()``.
  public var logQueue: LogQueue?
  /// The pace of a start after crashes.
  var carefulPace = CarefulStart.Pace()

  public init(directory: String) { self.directory = directory }

  /// What a server can do without.
  public enum Part: Sendable, Hashable {
    /// Calls to the PSP and the notification service.
    case processing
    /// Deliveries to webhook endpoints; they can be registered.
    case webhooks
    /// The web page.
    case web
  }

  /// The services that the simulator stands for. Without any there is no simulator, and no log of its own.
  var simulatedServices: Set<Simulator.Service> {
    Set((pspURL == nil ? [.psp] : []) + (notificationsURL == nil ? [.notifications] : []))
  }

  /// A host and a port, which may be 0 for any free one.
  public struct Address: Sendable, Hashable {
    public var host: String
    public var port: Int

    public init(host: String, port: Int) {
      self.host = host
      self.port = port
    }

    /// Reads `host:port`, or `[address]:port` for IPv6; nil for anything else.
    public init?(_ text: String) {
      guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
        return nil
      }
      var host = text[..<colon]
      if host.hasPrefix("["), host.hasSuffix("]") {
        host = host.dropFirst().dropLast()
      } else if host.contains(":") {
        return nil
      }
      guard !host.isEmpty else { return nil }
      self.init(host: String(host), port: Int(port))
    }
  }

  /// What ``psp`` is without a ``pspURL``.
  static let simulator = "simulator"

  /// Tells this PSP from others: the parts of its URL that calls go by.
  var psp: String {
    get throws(EndpointError) {
      try pspURL.map { url throws(EndpointError) in try Endpoint(url).url } ?? Self.simulator
    }
  }

  /// Only programs on this machine can reach the server.
  public var isLoopback: Bool { ListenAddress.isLoopback(host) }
}

/// Why a server could not start or continue. `description` is one line and says what to do.
public enum ServerError: Error, Sendable, CustomStringConvertible {
  case store(LogStoreError)
  case projection(ProjectionError)
  case endpoint(EndpointError)
  case webhooks(WebhookStoreError)
  case keys(KeyStoreError)
  /// Other machines can reach the address, and no key protects it.
  case noKeys(host: String)
  /// Other machines can reach the address of the metrics, which asks for no key.
  case openMetrics(host: String)
  case directory(String, reason: String)
  /// The payments log is missing or empty, and a file beside it (the witness) tells of a log with at least this number of events.
  case lostLog(directory: String, witness: String, events: UInt64, others: [String])
  /// - Parameter option: the one that names the port.
  case addressInUse(host: String, port: Int, option: String = "--port")
  /// Another log stands in the place of the payments log or the simulator's.
  case wrongLog(path: String, reason: String)
  /// The payments were made with another PSP than the one to call now.
  case otherPSP(directory: String, known: String, given: String)
  case tls(TLSFilesError)
  /// A restoration in the directory was killed.
  case unfinishedRestoration(directory: String)
  /// The simulator must not be used, and these options would name what to use instead.
  case noSimulator(missing: [String])
  case listen(host: String, port: Int, reason: String)
  case stopped(reason: String)

  public var description: String {
    switch self {
    case .store(let error): error.description
    case .projection(let error): error.description
    case .endpoint(let error): error.description
    case .webhooks(let error): error.description
    case .keys(let error): error.description
    case .noKeys(let host):
      "other machines can reach \(host), and there is no valid key; create one with regispay keys create, or add --insecure"
        + " to let everybody in"
    case .openMetrics(let host):
      "other machines can reach \(host), and --metrics-address asks for no key: name a loopback address, let the scraper use the"
        + " main port with a key that has scope read, or add --insecure to show the metrics to everybody"
    case .directory(let path, let reason): "can't use \(path) as data directory: \(reason)"
    case .lostLog(let directory, let witness, let events, let others):
      "\(directory)/payments, the payments log, is missing or empty, and \(witness) tells of a log with \(events) events"
        + " or more: restore the log (logstore restore), or, to begin with an empty one, move these out of \(directory) first:"
        + " \(others.joined(separator: ", "))"
    case .addressInUse(let host, let port, let option):
      "port \(port) of \(host) is in use by another program; stop that one or choose another port with \(option)"
    case .wrongLog(let path, let reason): "\(path) holds another log: \(reason)"
    case .otherPSP(let directory, let known, let given):
      "the payments in \(directory) were made with \(OtherPSP.shown(known)), and the PSP would now be \(OtherPSP.shown(given)): it"
        + " could carry out again what the first one has carried out. Start \(OtherPSP.option(known)); or use another --dir; or, if"
        + " both are the same PSP or no payment is unfinished, start once with --new-psp"
    case .tls(let error): error.description
    case .unfinishedRestoration(let directory):
      "a restoration in \(directory) was not finished: run regispay restore again, with the same backup"
    case .noSimulator(let missing):
      "--no-simulator needs \(missing.joined(separator: " and ")), so that no payment goes to a simulator"
    case .listen(let host, let port, let reason): "can't listen on \(host) port \(port): \(reason)"
    case .stopped(let reason): "stopped: \(reason)"
    }
  }
}
