import Foundation

/// Finds files in a data directory that users other than the server's may read or change. It changes nothing, because it can't
/// distinguish the modes of earlier versions from a person's choice.
struct Exposure: Sendable {
  let directory: String
  /// The group may read the logs (`--group-access`).
  let isForGroup: Bool

  private static let logs = ["payments", "simulator"]
  private static let others = ["projection", "webhooks", DataDirectory.ledger]

  /// One line for each finding, with the remedy. Reads the modes of a few directories.
  var lines: [String] {
    guard let top = Self.mode(directory) else { return [] }
    if top & 0o022 != 0 {
      return [
        "others may create files in \(directory) (mode \(Self.text(top))), and so keys and payments: chmod go-w \(directory)"
      ]
    }
    // Other users can't reach the directory's contents.
    guard top & 0o011 != 0 else { return [] }
    return (Self.logs + Self.others).compactMap { name in
      let path = directory + "/" + name
      guard let mode = Self.mode(path) else { return nil }
      let meant: mode_t = isForGroup && Self.logs.contains(name) ? 0o050 : 0
      guard mode & 0o077 & ~meant != 0 else { return nil }
      let isChoice = meant == 0 && Self.logs.contains(name)
      return "others may read \(path) (mode \(Self.text(mode))): chmod -R \(meant == 0 ? "go=" : "o=") \(path)"
        + (isChoice ? ", or start with --group-access if the group should read it" : "")
    }
  }

  private static func mode(_ path: String) -> mode_t? {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode & 0o777 : nil
  }

  private static func text(_ mode: mode_t) -> String { "0" + String(mode, radix: 8) }
}
