import Foundation

/// Finds what others than the server's user may read or change in a data directory: as earlier versions made it, or as
/// somebody wants it. Nothing is changed, since that is not told apart.
struct Exposure: Sendable {
  let directory: String
  /// The group is meant to read the logs.
  let isForGroup: Bool

  private static let logs = ["payments", "simulator"]
  private static let others = ["projection", "webhooks"]

  /// One line each, with what to do. Looks at the modes of a few directories.
  var lines: [String] {
    guard let top = Self.mode(directory) else { return [] }
    if top & 0o022 != 0 {
      return [
        "others may put files into \(directory) (mode \(Self.text(top))), and so make keys and payments: chmod go-w"
          + " \(directory)"
      ]
    }
    // Nobody else comes as far as what is in it.
    guard top & 0o011 != 0 else { return [] }
    return (Self.logs + Self.others).compactMap { name in
      let path = directory + "/" + name
      guard let mode = Self.mode(path) else { return nil }
      let meant: mode_t = isForGroup && Self.logs.contains(name) ? 0o050 : 0
      guard mode & 0o077 & ~meant != 0 else { return nil }
      let isChoice = meant == 0 && Self.logs.contains(name)
      return "others may read \(path) (mode \(Self.text(mode))): chmod -R \(meant == 0 ? "go=" : "o=") \(path)"
        + (isChoice ? ", or start with --group-access if the group is meant to" : "")
    }
  }

  private static func mode(_ path: String) -> mode_t? {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode & 0o777 : nil
  }

  private static func text(_ mode: mode_t) -> String { "0" + String(mode, radix: 8) }
}
