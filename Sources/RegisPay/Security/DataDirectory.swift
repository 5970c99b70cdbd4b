import Foundation

/// What the server keeps in its data directory, and whether a directory is one. A server that starts in another directory, such as
/// the payments log inside its own data directory, finds no keys and no payments there: it lets everybody in, accepts each
/// idempotency key again, and leaves its files among those of somebody else.
enum DataDirectory {
  /// Why a directory is refused.
  struct Refusal: Error, CustomStringConvertible {
    let description: String
  }

  private static let directories = ["payments", "simulator", "projection", "webhooks"]
  private static let files = ["keys.sqlite", "payments.known", "restoration", "starts", "crashed", "time"]
  /// Of files that SQLite and the server write beside these, and that a crash may leave: docs/OPERATIONS.md, *Files*.
  private static let suffixes = ["", ".new", ".private", "-journal", "-wal", "-shm"]

  /// Refuses a directory that is a LogStore, and one with other files that holds nothing of the server's yet. Changes nothing. A
  /// missing directory passes; so does a data directory in which a person keeps other files too.
  static func check(_ path: String) throws(Refusal) {
    guard let names = try names(in: path)?.sorted() else { return }
    guard !names.contains("store") else {
      let path = URL(fileURLWithPath: path).standardizedFileURL.path
      let parent = (path as NSString).deletingLastPathComponent
      let advice =
        holdsData(parent) ? "did you mean \(parent)?" : "give the directory that holds payments/, or a new one"
      throw Refusal(description: "it is a log (it holds the file store), and a data directory holds logs; \(advice)")
    }
    guard let foreign = names.first(where: { !isOwn($0) }), !holdsData(path) else { return }
    throw Refusal(
      description:
        "it holds \(foreign), which is not RegisPay's, and nothing of RegisPay's; give an empty or a new directory"
    )
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
      "payments.known", "restoration",
    ]
    return proofs.contains { FileManager.default.fileExists(atPath: "\(path)/\($0)") }
  }
}
