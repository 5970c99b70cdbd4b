import Foundation
import Testing

/// A directory through Support/faulty.c, whose bytes can be made unreadable, and readable again, while programs use it.
struct FaultyDisk: Sendable {
  struct Rule: Sendable, Hashable {
    /// Without its directory.
    var file: String
    var range: Range<Int>
  }

  /// Where programs see it.
  let path: String
  /// Where its bytes are; nothing is unreadable there.
  let backing: String
  private let rules: String

  /// While `body` runs.
  static func with<Value>(
    in scratch: TemporaryDirectory, _ body: (FaultyDisk) async throws -> Value
  ) async throws -> Value {
    let backing = scratch.newPath("backing")
    let rules = scratch.newPath("rules")
    try FileManager.default.createDirectory(atPath: backing, withIntermediateDirectories: false)
    try Data().write(to: URL(fileURLWithPath: rules))
    return try await Mount.withFaulty(backing, rules: rules, in: scratch) { mount in
      try await body(FaultyDisk(path: mount.path, backing: backing, rules: rules))
    }
  }

  /// From now on these can't be read, and all else can.
  func spoil(_ bad: [Rule]) throws {
    let text = bad.map { "\($0.file) \($0.range.lowerBound) \($0.range.upperBound)\n" }.joined()
    // In one step, since it is read at any time.
    try Data(text.utf8).write(to: URL(fileURLWithPath: rules + ".new"))
    guard rename(rules + ".new", rules) == 0 else { throw HarnessError("rename: \(errno)") }
    try forget()
  }

  /// All of it can be read again.
  func heal() throws { try spoil([]) }

  /// Has the kernel forget what it has cached, mapped bytes too: they are read again when they are touched.
  private func forget() throws {
    guard let files = FileManager.default.enumerator(atPath: backing) else { throw HarnessError("no \(backing)") }
    for case let name as String in files {
      // A directory too, which does nothing.
      let descriptor = open(path + "/" + name, O_RDONLY | O_NONBLOCK)
      if descriptor >= 0 { close(descriptor) }
    }
  }
}
