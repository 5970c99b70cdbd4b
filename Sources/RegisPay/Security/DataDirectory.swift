import Foundation

/// What the server keeps in its data directory, and whether a directory is one. A server that starts in another directory, such as
/// the payments log inside its own data directory, finds no keys and no payments there: it lets everybody in, accepts each
/// idempotency key again, and leaves its files among those of somebody else.
enum DataDirectory {
  /// Why a directory is refused.
  struct Refusal: Error, CustomStringConvertible {
    let description: String
  }

  /// Which program a directory is for. No directory is for both: each would find the other's API keys, and a person who removes the
  /// simulator's directory after a test would remove payments.
  enum Use {
    /// `regispay serve`.
    case server
    /// `regispay simulator`.
    case simulator
  }

  /// The log of a simulator that runs by itself. Named differently from the one in a server's directory, so that each program knows
  /// the other's directory.
  static let ledger = "ledger"

  private static let serverDirectories = ["payments", "simulator", "projection", "webhooks"]
  private static let directories = serverDirectories + [ledger]
  private static let files = ["keys.sqlite", "payments.known", "restoration", "starts", "crashed", "time"]
  /// Of files that SQLite and the server write beside these, and that a crash may leave: docs/OPERATIONS.md, *Files*.
  private static let suffixes = ["", ".new", ".private", "-journal", "-wal", "-shm"]

  /// Refuses a directory that is a LogStore, one of the other program, and one with other files that holds nothing of RegisPay's yet.
  /// Changes nothing. A missing directory passes; so does a data directory in which a person keeps other files too.
  ///
  /// - Parameter use: nil for either.
  static func check(_ path: String, for use: Use? = nil) throws(Refusal) {
    guard let names = try names(in: path)?.sorted() else { return }
    if let use { try check(names, for: use) }
    guard !names.contains("store") else {
      let path = URL(fileURLWithPath: path).standardizedFileURL.path
      let parent = (path as NSString).deletingLastPathComponent
      let advice =
        holdsData(parent)
        ? "did you mean \(parent)?"
        : "give the directory that holds \(use == .simulator ? ledger : "payments")/, or a new one"
      throw Refusal(description: "it is a log (it holds the file store), and a data directory holds logs; \(advice)")
    }
    guard let foreign = names.first(where: { !isOwn($0) }), !holdsData(path) else { return }
    throw Refusal(
      description:
        "it holds \(foreign), which is not RegisPay's, and nothing of RegisPay's; give an empty or a new directory"
    )
  }

  private static func check(_ names: [String], for use: Use) throws(Refusal) {
    switch use {
    case .server:
      guard names.contains(ledger) else { return }
      throw Refusal(
        description: "regispay simulator uses it (it holds \(ledger)/); give serve a directory of its own with --dir")
    case .simulator:
      // What a server leaves when its logs are moved away counts too.
      let others = serverDirectories + ["payments.known", "restoration"]
      guard let name = names.first(where: others.contains) else { return }
      throw Refusal(
        description: "regispay serve uses it (it holds \(name)); give the simulator a directory of its own with --dir")
    }
  }

  /// - Returns: nil if there is nothing under this name.
  private static func names(in path: String) throws(Refusal) -> [String]? {
    guard let stream = opendir(path) else {
      if errno == ENOENT { return nil }
      throw Refusal(description: "can't list it: \(String(cString: strerror(errno)))")
    }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        // The system ends the name with a zero within the field.
        $0.withMemoryRebound(to: CChar.self, capacity: MemoryLayout.size(ofValue: $0.pointee)) { String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }

  /// Whether the server, SQLite or the file system gives this name.
  static func isOwn(_ name: String) -> Bool {
    if name == "lost+found" || name.hasPrefix(".nfs") || directories.contains(name) { return true }
    return files.contains { file in suffixes.contains { name == file + $0 } }
  }

  /// Whether a server has been here, or somebody has put back what one had. `time` and the like are names that anybody could use.
  private static func holdsData(_ path: String) -> Bool {
    let proofs = [
      "payments/store", "simulator/store", "projection/payments.sqlite", "webhooks/webhooks.sqlite", "keys.sqlite",
      "payments.known", "restoration", "\(ledger)/store",
    ]
    return proofs.contains { FileManager.default.fileExists(atPath: "\(path)/\($0)") }
  }
}
