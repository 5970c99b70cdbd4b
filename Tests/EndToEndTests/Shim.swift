import Foundation
import Testing

/// Programs in C that the tests use, built when they are first needed, beside the bundle of these tests.
enum TestTool {
  static let shim = Task { try await build("shim.c", to: "logstore-test-shim.so", ["-shared", "-fPIC", "-ldl"]) }

  /// A calendar that is wrong.
  static let clock = Task { try await build("clock.c", to: "regispay-test-clock.so", ["-shared", "-fPIC"]) }

  /// A disk that does not answer.
  static let hang = Task { try await build("hang.c", to: "regispay-test-hang.so", ["-shared", "-fPIC", "-ldl"]) }

  /// A reader of standard output is waited for longer.
  static let patience = Task {
    try await build("patience.c", to: "logstore-test-patience.so", ["-shared", "-fPIC", "-ldl"])
  }

  /// Needs the Debian package libfuse3-dev.
  static let recorder = Task {
    let scratch = try TemporaryDirectory()
    let flags = try await system(["pkg-config", "--cflags", "--libs", "fuse3"], in: scratch)
    return try await build(
      "recorder.c", to: "logstore-test-recorder",
      ["-D_FILE_OFFSET_BITS=64"] + flags.split { $0.isWhitespace }.map(String.init))
  }

  /// As ``recorder``.
  static let faulty = Task {
    let scratch = try TemporaryDirectory()
    let flags = try await system(["pkg-config", "--cflags", "--libs", "fuse3"], in: scratch)
    return try await build(
      "faulty.c", to: "logstore-test-faulty",
      ["-D_FILE_OFFSET_BITS=64"] + flags.split { $0.isWhitespace }.map(String.init))
  }

  /// The handler for unreadable pages, as a C program has it.
  static let faults = Task {
    let sources = (StoreUnderTest.support as NSString).deletingLastPathComponent + "/../../Sources/CLinux"
    return try await build(
      "faults.c", to: "logstore-test-faults", ["-I", sources + "/include", sources + "/faults.c", "-lpthread"])
  }

  /// Compiles a file of Support; gives the path of the result.
  static func build(_ source: String, to name: String, _ flags: [String]) async throws -> String {
    let path = (StoreUnderTest.command as NSString).deletingLastPathComponent + "/" + name
    let scratch = try TemporaryDirectory()
    let made = path + ".\(getpid())"
    let compiler = try LogStoreProcess(
      "cc", ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", made, StoreUnderTest.support + "/" + source] + flags,
      scratch: scratch)
    let finished = try await compiler.end()
    guard finished.exitCode == 0, rename(made, path) == 0 else {
      throw HarnessError("\(source) could not be compiled: \(finished.errors)")
    }
    return path
  }
}

/// The library of Support/shim.c, in front of the C library of one process.
struct Shim {
  /// What to do before a call, or in its place.
  struct Fault: CustomStringConvertible, Sendable, Hashable {
    enum Action: Sendable, Hashable {
      case kill
      /// Half of what was asked for is read or written.
      case short
      case error(Int32)
    }

    /// A name of Support/shim.c, or `*`.
    var call: String
    /// From 1.
    var number: Int
    var andLater = false
    var action: Action

    var words: String {
      let what =
        switch action {
        case .kill: "kill"
        case .short: "short"
        case .error(let code): "\(code)"
        }
      return "\(call):\(number)\(andLater ? "+" : ""):\(what)"
    }

    var description: String {
      let what =
        switch action {
        case .kill: "killed before"
        case .short: "a short"
        case .error(let code): "\(String(cString: strerror(code))) (\(code)) from"
        }
      return "\(what) \(call == "*" ? "call" : call) number \(number)\(andLater ? " and all later ones" : "")"
    }
  }

  /// The words before the command, for ``StoreUnderTest/run(_:input:under:killAfter:within:)``.
  ///
  /// - Parameters:
  ///   - root: Calls that touch what is in it are watched, and those that touch the directories above it.
  ///   - log: Gets a record of each call; see ``ShimRecord``.
  ///   - withData: The bytes of writes too.
  static func words(
    root: String, faults: [Fault] = [], log: String? = nil, withData: Bool = false
  ) async throws -> [String] {
    var words = ["env", "LD_PRELOAD=\(try await TestTool.shim.value)", "LOGSTORE_SHIM_ROOT=\(root)"]
    if !faults.isEmpty { words.append("LOGSTORE_SHIM_FAULT=" + faults.map(\.words).joined(separator: ",")) }
    if let log { words.append("LOGSTORE_SHIM_LOG=\(log)") }
    if withData { words.append("LOGSTORE_SHIM_DATA=1") }
    return words
  }
}

/// One record of the shim's log: a call's beginning, its end, or that it was made to fail.
struct ShimRecord {
  enum Phase: UInt8 {
    case begin, end, failed
  }

  /// In the order of Support/shim.c.
  static let names = [
    "open", "close", "pread", "pwrite", "read", "write", "fsync", "fdatasync", "rename", "unlink", "rmdir", "mkdir",
    "ftruncate", "fallocate", "sync_file_range", "mmap", "madvise", "flock", "opendir", "readdir", "closedir", "fstat",
    "stat", "access", "realpath", "inotify_init1", "inotify_add_watch", "pipe", "poll", "fcntl", "lstat",
  ]

  var call: String
  var phase: Phase
  var isShort: Bool
  /// Among all calls of the process that are watched, from 1.
  var number: Int
  /// Differs for each open file; 0 for calls by path.
  var file: Int
  var flags: UInt32
  /// Of an end; negative errno.
  var result: Int
  var position: Int
  var length: Int
  var path: String
  var secondPath: String
  /// Of a write's beginning, if it was asked for.
  var data: ArraySlice<UInt8>

  /// A log's records, in order. A process that is killed may leave a piece of one at the end, which is left out.
  static func read(_ log: String) throws -> [ShimRecord] {
    let bytes = Array(try Data(contentsOf: URL(fileURLWithPath: log)))
    func integer<Value: FixedWidthInteger>(_ at: Int, as: Value.Type) -> Value {
      bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at, as: Value.self) }
    }
    let headerByteCount = 56
    var records: [ShimRecord] = []
    var at = 0
    while at + headerByteCount <= bytes.count {
      let byteCount = Int(integer(at, as: UInt32.self))
      guard byteCount >= headerByteCount, at + byteCount <= bytes.count else { break }
      guard let phase = Phase(rawValue: bytes[at + 5]), Int(bytes[at + 4]) < names.count else {
        throw HarnessError("the shim's log is not what Support/shim.c writes, at byte \(at)")
      }
      let first = at + headerByteCount
      let second = first + Int(integer(at + 6, as: UInt16.self))
      let data = second + Int(integer(at + 8, as: UInt16.self))
      records.append(
        ShimRecord(
          call: names[Int(bytes[at + 4])], phase: phase, isShort: integer(at + 10, as: UInt16.self) != 0,
          number: Int(integer(at + 12, as: UInt32.self)), file: Int(integer(at + 16, as: UInt32.self)),
          flags: integer(at + 20, as: UInt32.self), result: Int(integer(at + 24, as: Int64.self)),
          position: Int(integer(at + 32, as: UInt64.self)), length: Int(integer(at + 40, as: UInt64.self)),
          path: String(decoding: bytes[first..<second], as: UTF8.self),
          secondPath: String(decoding: bytes[second..<data], as: UTF8.self), data: bytes[data..<at + byteCount]))
      at += byteCount
    }
    return records
  }
}
