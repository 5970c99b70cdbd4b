import Glibc

/// The limit of files and connections that the process may have open.
public enum DescriptorLimit {
  /// Raises the limit to the hard limit.
  public static func raise() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < limit.rlim_max else {
      return
    }
    limit.rlim_cur = limit.rlim_max
    // After a failure the limit stays as it was; `serve` then checks whether it suffices.
    _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }

  /// The least number of descriptors for a server: about 50 for logs, databases and event loops, and a share for connections and
  /// calls that leaves these always available. Without a descriptor a log stops, and the runtime's timers end the process.
  public static let needed = 256

  /// The current limit.
  public static var current: Int {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return .max }
    return Int(clamping: limit.rlim_cur)
  }
}
