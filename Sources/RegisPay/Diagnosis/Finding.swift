/// The checks of `regispay doctor`. The names are stable: programs read them.
public enum CheckName: String, Sendable, CaseIterable {
  case configuration
  case tls
  case port
  case fileSystem = "file-system"
  case diskSpace = "disk-space"
  case syncSpeed = "sync-speed"
  case permissions
  case openFiles = "open-files"
  case fileSize = "file-size"
  case threads
  case memory
  case processors
  case inotify
  case clock
  case store
  case keys
  case webhooks
  case psp
  case backupAge = "backup-age"
}

/// What a check has found.
public struct Finding: Sendable, Hashable {
  public enum Result: String, Sendable, CaseIterable {
    case ok
    /// The server runs, with a risk that somebody should know of.
    case warning
    /// The server doesn't start, loses payments at the next power cut, or is about to fail.
    case problem
    case notChecked = "not checked"
  }

  public var check: CheckName
  public var result: Result
  /// One sentence, without a full stop.
  public var found: String
  /// What to do; nil unless the result is a warning or a problem.
  public var advice: String?

  static func ok(_ check: CheckName, _ found: String) -> Finding { Finding(check: check, result: .ok, found: found) }

  static func notChecked(_ check: CheckName, _ found: String) -> Finding {
    Finding(check: check, result: .notChecked, found: found)
  }

  static func warning(_ check: CheckName, _ found: String, advice: String) -> Finding {
    Finding(check: check, result: .warning, found: found, advice: advice)
  }

  static func problem(_ check: CheckName, _ found: String, advice: String) -> Finding {
    Finding(check: check, result: .problem, found: found, advice: advice)
  }
}

/// One of the checks of ``Diagnosis``.
///
/// A check takes no lock that others wait for, and writes nothing, but for ``SyncSpeedCheck``, which writes to a file without a name.
/// It may block: it runs on a thread of its own, and nobody waits longer than ``TimedCheck/limit``.
protocol Check: Sendable {
  var name: CheckName { get }

  /// What was found: one finding for each thing that was looked at. Blocks for files and sockets.
  func run() -> [Finding]
}
