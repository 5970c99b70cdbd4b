import Glibc

/// How many files and connections the process may have open.
public enum DescriptorLimit {
  /// Lets the process have as many files and connections open as it may.
  public static func raise() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < limit.rlim_max else {
      return
    }
    limit.rlim_cur = limit.rlim_max
    // As many as before will have to do otherwise.
    _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }

  /// The least number of descriptors that a server may have: some 50 for logs, databases and event loops, and of the rest
  /// enough for connections and calls that these always get theirs. Without one, a log stops, and the runtime's timers end
  /// the process.
  public static let needed = 256

  /// How many files and connections the process may have open.
  public static var current: Int {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return .max }
    return Int(clamping: limit.rlim_cur)
  }
}
