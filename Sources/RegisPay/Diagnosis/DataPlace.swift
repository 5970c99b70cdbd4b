import Foundation

/// A data directory, or where it would be.
struct DataPlace: Sendable {
  enum State: Sendable, Hashable {
    case directory
    case missing
    /// Something else has the name.
    case noDirectory
    /// It, or a directory above it, is a symbolic link of this path that leads to nothing: it can't be made.
    case dangling(link: String)
    /// The error number.
    case unreachable(Int32)
  }

  /// Absolute.
  let path: String
  let state: State
  /// The directory itself or, before the first start, the nearest one above it.
  let existing: String

  /// Blocks for some system calls.
  init(_ directory: String) {
    path = Self.absolute(directory)
    var status = stat()
    if stat(path, &status) == 0 {
      state = status.st_mode & S_IFMT == S_IFDIR ? .directory : .noDirectory
    } else {
      let code = errno
      state = code != ENOENT ? .unreachable(code) : Self.danglingLink(path).map { .dangling(link: $0) } ?? .missing
    }
    var ancestor = path
    while ancestor != "/", stat(ancestor, &status) != 0 || status.st_mode & S_IFMT != S_IFDIR {
      ancestor = (ancestor as NSString).deletingLastPathComponent
    }
    existing = ancestor
  }

  /// The link that makes a missing path impossible to create; nil if there is none.
  private static func danglingLink(_ path: String) -> String? {
    var (ancestor, status) = (path, stat())
    while ancestor != "/", stat(ancestor, &status) != 0 {
      if lstat(ancestor, &status) == 0 { return ancestor }
      ancestor = (ancestor as NSString).deletingLastPathComponent
    }
    return nil
  }

  /// Asks no disk.
  static func absolute(_ path: String) -> String { URL(fileURLWithPath: path).standardizedFileURL.path }

  var isThere: Bool { state == .directory }
}

/// Numbers with their units.
enum Shown {
  /// `12.3 MiB`.
  static func bytes(_ count: UInt64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    var (value, unit) = (Double(count), 0)
    while value >= 1024, unit < units.count - 1 { (value, unit) = (value / 1024, unit + 1) }
    return unit == 0 ? "\(count) bytes" : "\(rounded(value)) \(units[unit])"
  }

  /// `0.85 ms`.
  static func milliseconds(_ time: Duration) -> String {
    let value = time / .milliseconds(1)
    return value < 0.1 ? "\(Int((value * 1000).rounded())) µs" : "\(rounded(value)) ms"
  }

  /// In the largest unit of which there are two.
  static func age(_ seconds: Int64) -> String {
    switch seconds {
    case ..<120: "\(seconds) seconds"
    case ..<7_200: "\(seconds / 60) minutes"
    case ..<172_800: "\(seconds / 3_600) hours"
    default: "\(seconds / 86_400) days"
    }
  }

  /// What the system says of an error number.
  static func error(_ code: Int32) -> String { String(cString: strerror(code)) }

  private static func rounded(_ value: Double) -> String {
    value >= 100
      ? String(Int(value.rounded())) : String((value * (value < 10 ? 100 : 10)).rounded() / (value < 10 ? 100 : 10))
  }
}
