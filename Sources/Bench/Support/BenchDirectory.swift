import Glibc

/// A directory for one workload's files, removed when it is done, and also when the program is interrupted.
final class BenchDirectory: Sendable {
  let path: String

  init(in parent: String) throws {
    mkdir(parent, 0o755)
    var template = Array("\(parent)/run.XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else {
      throw BenchError("making a directory in \(parent) failed: \(String(cString: strerror(errno)))")
    }
    path = String(cString: made)
    Cleanup.shared.add(path, parent)
  }

  deinit { Cleanup.shared.remove(path) }

  func file(_ name: String) -> String { "\(path)/\(name)" }
}

/// An error for a person; one line.
struct BenchError: Error, CustomStringConvertible {
  var description: String
  init(_ description: String) { self.description = description }
}
