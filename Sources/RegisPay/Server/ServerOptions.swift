import LogStore

/// What a server is to be; every duration and limit may be changed, so that tests need not wait.
public struct ServerOptions: Sendable {
  /// Holds the payments' log in `payments`, the simulator's in `simulator`, and in `projection` what is made from the
  /// payments' log to be listed; `webhooks` holds endpoints and their secrets. Made if it is missing.
  public var directory: String
  /// Lets the group read the logs: their directories are made with mode 0750, their files with 0640. Otherwise, and in any
  /// case for keys, webhooks and the list of payments, nobody but the process's user may. What is there keeps its mode.
  public var allowsGroup = false
  public var host = "127.0.0.1"
  /// 0 lets the system choose one.
  public var port = 8080
  /// Where the PSP is; nil for the simulator in this server.
  public var pspURL: String?
  /// Where the notification service is; nil for the simulator in this server.
  public var notificationsURL: String?
  /// For one try of a call out.
  public var callTimeLimit = Duration.seconds(10)
  public var breaker = Breaker.Options()
  public var consumer = StepConsumer.Options()
  /// How long a client's idempotency key is kept.
  public var requestLifetime = Duration.seconds(24 * 60 * 60)
  public var webhooks = WebhookOptions()
  /// How long a stop may take. A third of it, at most 5 seconds, calls out and webhooks get to end; at four fifths requests and
  /// all else are cut off, and the logs are closed.
  public var stopLimit = Duration.seconds(15)
  /// Size of the payments log's segment files, in bytes. A new log takes as long as writing two of them.
  public var segmentBytes = 32 << 20
  /// What these sizes may be, in bytes.
  public static let segmentByteRange = Limits.segmentBytes
  /// Size of the simulator log's segment files, in bytes.
  public var simulatorSegmentBytes = 16 << 20
  /// How long the logs' syncs wait for more appends to join them, under load.
  var gatherMilliseconds: UInt32 = 1
  /// How fast the logs' files are read again in the background, to find damage; 0 turns that off.
  public var scrubBytesPerSecond: UInt64 = 8 << 20

  /// What a client may use.
  public var limits = HTTPLimits()
  /// Allows to listen on an address that others may reach though there is no key.
  public var isInsecure = false
  /// Further names by which clients address the server, without a port. See ``BrowserProtection``.
  public var allowedHosts: [String] = []
  /// How often it is looked whether keys were made or revoked.
  public var keyInterval = Duration.seconds(1)
  /// How a start goes on after crashes.
  var carefulPace = CarefulStart.Pace()

  public init(directory: String) { self.directory = directory }

  /// Only programs on this machine can reach it.
  public var isLoopback: Bool { ListenAddress.isLoopback(host) }
}

/// Why a server could not start or go on. `description` is one line and says what to do.
public enum ServerError: Error, Sendable, CustomStringConvertible {
  case store(LogStoreError)
  case projection(ProjectionError)
  case endpoint(EndpointError)
  case webhooks(WebhookStoreError)
  case keys(KeyStoreError)
  /// Anybody who reaches this address could pay.
  case noKeys(host: String)
  case directory(String, reason: String)
  /// The payments' log is missing or empty, and a file beside it was made from one with so many events.
  case lostLog(directory: String, witness: String, place: UInt64, others: [String])
  case addressInUse(host: String, port: Int)
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
      "\(host) may be reached from elsewhere, and there is no valid key; make one with regispay keys create, or add "
        + "--insecure if everybody is meant to be let in"
    case .directory(let path, let reason): "can't use \(path) as data directory: \(reason)"
    case .lostLog(let directory, let witness, let place, let others):
      "\(directory)/payments, the log of payments, is missing or empty, and \(witness) was made from one with \(place) events:"
        + " put the log back (logstore restore), or, to begin with an empty one, move these out of \(directory) first:"
        + " \(others.joined(separator: ", "))"
    case .addressInUse(let host, let port):
      "port \(port) of \(host) is in use by another program; stop that one or choose another port with --port"
    case .listen(let host, let port, let reason): "can't listen on \(host) port \(port): \(reason)"
    case .stopped(let reason): "stopped: \(reason)"
    }
  }
}
