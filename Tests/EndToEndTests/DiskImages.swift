import Foundation
import Testing

/// File systems in image files, mounted through loop devices.
enum FileSystem: String, CaseIterable, Sendable {
  case ext4, xfs, btrfs

  /// About the smallest that each can do with.
  var byteCount: Int {
    switch self {
    case .ext4: 48 << 20
    case .xfs: 300 << 20
    case .btrfs: 128 << 20
    }
  }

  fileprivate var maker: [String] {
    switch self {
    case .ext4: ["mkfs.ext4", "-q", "-F"]
    case .xfs: ["mkfs.xfs", "-q", "-f"]
    case .btrfs: ["mkfs.btrfs", "-q", "-f"]
    }
  }

  /// Copies of one file system have the same id: XFS has to be told that this is meant; btrfs can't have two at a time.
  var options: [String] { self == .xfs ? ["nouuid"] : [] }
  var mountsAtATime: Int { self == .btrfs ? 1 : 2 }

  /// Makes an image with an empty file system in it, that takes no more room than it must.
  func make(_ image: String, byteCount: Int? = nil, in scratch: TemporaryDirectory) async throws {
    try Data().write(to: URL(fileURLWithPath: image))
    guard truncate(image, off_t(byteCount ?? self.byteCount)) == 0 else { throw HarnessError("truncate: \(errno)") }
    try await system(maker + [image], in: scratch)
    try await system(["fallocate", "--dig-holes", image], in: scratch)
  }
}

/// Runs a program that has to succeed; gives its output.
@discardableResult
func system(_ words: [String], in scratch: TemporaryDirectory) async throws -> String {
  let finished = try await LogStoreProcess(words[0], Array(words.dropFirst()), scratch: scratch).end()
  guard finished.exitCode == 0 else {
    throw HarnessError("\(words.joined(separator: " ")) failed: \(finished.text) \(finished.errors)")
  }
  return finished.text
}

/// Something that is mounted, and unmounted in any case: at the latest by the next run of these tests.
struct Mount: Sendable {
  /// mount(8) would not.
  struct Refused: Error, CustomStringConvertible {
    var description: String
  }

  let path: String
  private let scratch: TemporaryDirectory

  /// Mounts something while `body` runs.
  static func with<Value>(
    _ arguments: [String], in scratch: TemporaryDirectory, _ body: (Mount) async throws -> Value
  ) async throws -> Value {
    let mount = Mount(path: try newDirectory(in: scratch), scratch: scratch)
    do {
      try await system(["mount"] + arguments + [mount.path], in: scratch)
    } catch let error as HarnessError {
      throw Refused(description: error.description)
    }
    return try await mount.use(body)
  }

  static func with<Value>(
    image: String, _ fileSystem: FileSystem, options: [String] = [], in scratch: TemporaryDirectory,
    _ body: (Mount) async throws -> Value
  ) async throws -> Value {
    let options = ["loop"] + fileSystem.options + options
    return try await with(
      ["-t", fileSystem.rawValue, "-o", options.joined(separator: ","), image], in: scratch, body)
  }

  /// A disk that is recorded, and a file system on it, while `body` runs.
  static func withRecorder<Value>(
    image: String, record: String, _ fileSystem: FileSystem, in scratch: TemporaryDirectory,
    _ body: (Mount) async throws -> Value
  ) async throws -> Value {
    let recorder = Mount(path: try newDirectory(in: scratch), scratch: scratch)
    let process = try LogStoreProcess(
      try await TestTool.recorder.value, [recorder.path, image, record], scratch: scratch)
    let deadline = ContinuousClock.now + .seconds(10)
    while !FileManager.default.fileExists(atPath: recorder.path + "/disk") {
      guard ContinuousClock.now < deadline else { throw HarnessError("no FUSE: \(process.errorsSoFar)") }
      await Task.yield()
    }
    return try await recorder.use { recorder in
      let device = try await system(["losetup", "--find", "--show", recorder.path + "/disk"], in: scratch)
        .trimmingCharacters(in: .whitespacesAndNewlines)
      do {
        return try await with(["-t", fileSystem.rawValue, device], in: scratch) { mount in
          // From now on the loop device goes with the mount.
          try await system(["losetup", "--detach", device], in: scratch)
          return try await body(mount)
        }
      } catch {
        _ = try? await LogStoreProcess("losetup", ["--detach", device], scratch: scratch).end()
        throw error
      }
    }
  }

  /// A directory of which some bytes can't be read, while `body` runs: see ``FaultyDisk``.
  static func withFaulty<Value>(
    _ backing: String, rules: String, in scratch: TemporaryDirectory, _ body: (Mount) async throws -> Value
  ) async throws -> Value {
    let mount = Mount(path: try newDirectory(in: scratch), scratch: scratch)
    let process = try LogStoreProcess(
      try await TestTool.faulty.value, [mount.path, backing, rules], scratch: scratch)
    let deadline = ContinuousClock.now + .seconds(10)
    while !(try String(contentsOfFile: "/proc/mounts", encoding: .utf8)).contains(" \(mount.path) ") {
      guard ContinuousClock.now < deadline else { throw HarnessError("no FUSE: \(process.errorsSoFar)") }
      await Task.yield()
    }
    return try await mount.use(body)
  }

  private func use<Value>(_ body: (Mount) async throws -> Value) async throws -> Value {
    let result: Result<Value, any Error>
    do { result = .success(try await body(self)) } catch { result = .failure(error) }
    let deadline = ContinuousClock.now + .seconds(10)
    // A device may be held for a moment by what the system does on its own with new ones.
    while try await LogStoreProcess("umount", [path], scratch: scratch).end().exitCode != 0 {
      guard ContinuousClock.now < deadline else {
        try await system(["umount", "-l", path], in: scratch)
        throw HarnessError("\(path) was busy for ten seconds")
      }
    }
    return try result.get()
  }

  private static func newDirectory(in scratch: TemporaryDirectory) throws -> String {
    let path = scratch.newPath("\(prefix)\(getpid())")
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    return path
  }

  private static let prefix = "logstore-mount."

  /// Why nothing can be mounted here; nil if it can. Ends what earlier runs have left mounted when they were killed.
  static let obstacle = Task { () -> String? in
    guard geteuid() == 0 else { return "only root can mount" }
    for line in (try? String(contentsOfFile: "/proc/mounts", encoding: .utf8))?.split(separator: "\n").reversed() ?? []
    {
      let words = line.split(separator: " ")
      guard words.count > 1, let name = words[1].range(of: "/\(prefix)"),
        let owner = pid_t(words[1][name.upperBound...].prefix { $0.isNumber }), kill(owner, 0) != 0, errno == ESRCH
      else { continue }
      umount2(String(words[1]), Int32(MNT_DETACH))
    }
    guard FileManager.default.fileExists(atPath: "/dev/fuse") else { return "there is no /dev/fuse" }
    do {
      let scratch = try TemporaryDirectory(isInMemory: true)
      let image = scratch.path + "/image"
      try await FileSystem.ext4.make(image, in: scratch)
      return try await withRecorder(image: image, record: scratch.path + "/record", .ext4, in: scratch) { _ in nil }
    } catch {
      return "\(error)"
    }
  }

  /// For a test's beginning: false, and a line that says why, where nothing can be mounted.
  static func isPossible(_ test: String) async -> Bool {
    guard let obstacle = await Self.obstacle.value else { return true }
    print("SKIPPED: \(test): \(obstacle)")
    return false
  }
}
