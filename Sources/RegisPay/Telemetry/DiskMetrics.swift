import Glibc
import Synchronization

/// The room on the data directory's file system, how much of it the directory takes, and until when the room lasts at the rate of
/// the last hour.
///
/// Safe to use from any thread.
final class DiskMetrics: Sendable {
  /// The shortest time between two values that ``sample(appendedBytes:at:)`` keeps: 61 of them are an hour.
  static let interval: UInt64 = 60_000_000_000
  private static let sampleLimit = 61
  /// The rate of a shorter time says little.
  private static let leastTime: UInt64 = 60_000_000_000

  private struct State {
    /// Bytes appended since the start, and when that was, in nanoseconds; ascending.
    var samples: [(bytes: UInt64, at: UInt64)] = []
    var directoryBytes: [(name: String, bytes: UInt64)] = []
  }

  private let directory: String
  private let parts: [String]
  private let state = Mutex(State())

  /// - Parameters:
  ///   - directory: the data directory.
  ///   - parts: folders in it whose files are measured.
  init(_ directory: String, parts: [String]) {
    self.directory = directory
    self.parts = parts
  }

  /// Notes how much was appended. Call it about once a minute.
  ///
  /// - Parameter nanoseconds: of a clock that only goes forwards.
  func sample(appendedBytes: UInt64, at nanoseconds: UInt64) {
    state.withLock { state in
      if let last = state.samples.last, nanoseconds < last.at + Self.interval { return }
      if state.samples.count == Self.sampleLimit { state.samples.removeFirst() }
      state.samples.append((appendedBytes, nanoseconds))
    }
  }

  /// Measures the folders. Blocks: about a microsecond for each file.
  func measure() {
    let measured = parts.compactMap { name in Self.size(of: directory + "/" + name).map { (name, $0) } }
    state.withLock { $0.directoryBytes = measured }
  }

  /// Bytes appended in a second, over the last hour or since the start; nil in the first minute.
  ///
  /// - Parameter appendedBytes: as of now.
  func rate(appendedBytes: UInt64, at nanoseconds: UInt64) -> Double? {
    guard let first = state.withLock({ $0.samples.first }), nanoseconds >= first.at + Self.leastTime,
      appendedBytes >= first.bytes
    else { return nil }
    return Double(appendedBytes - first.bytes) / (Double(nanoseconds - first.at) / 1e9)
  }

  /// The room on the data directory's file system.
  struct Space: Sendable {
    var availableBytes: UInt64
    var sizeBytes: UInt64
    /// Until the file system is full, in seconds; nil while the logs don't grow.
    var fullSeconds: Double?
  }

  /// Nil if the system can't tell. Blocks for a system call.
  ///
  /// - Parameters: as for ``rate(appendedBytes:at:)``.
  func space(appendedBytes: UInt64, at nanoseconds: UInt64) -> Space? {
    var status = statvfs()
    guard statvfs(directory, &status) == 0 else { return nil }
    let unit = UInt64(status.f_frsize)
    let room = UInt64(status.f_bavail) * unit
    let rate = rate(appendedBytes: appendedBytes, at: nanoseconds)
    return Space(
      availableBytes: room, sizeBytes: UInt64(status.f_blocks) * unit,
      fullSeconds: rate.flatMap { $0 > 0 ? Double(room) / $0 : nil })
  }

  /// Blocks for a system call.
  ///
  /// - Parameters: as for ``rate(appendedBytes:at:)``.
  func families(appendedBytes: UInt64, at nanoseconds: UInt64) -> [MetricFamily] {
    var available = MetricFamily(
      "regispay_disk_available_bytes", .gauge, "Room for the server on the data directory's file system.")
    var size = MetricFamily("regispay_disk_size_bytes", .gauge, "Size of the data directory's file system.")
    var growth = MetricFamily(
      "regispay_log_growth_bytes_per_second", .gauge,
      "Bytes appended to both logs in a second, over the last hour or since the start; none in the first minute.")
    var full = MetricFamily(
      "regispay_disk_full_seconds", .gauge,
      "Time until the file system is full if the logs go on growing like this; none while they don't grow.")
    if let rate = rate(appendedBytes: appendedBytes, at: nanoseconds) { growth.add([], rate) }
    if let space = space(appendedBytes: appendedBytes, at: nanoseconds) {
      available.add([], space.availableBytes)
      size.add([], space.sizeBytes)
      if let seconds = space.fullSeconds { full.add([], seconds) }
    }
    var sizes = MetricFamily(
      "regispay_directory_bytes", .gauge, "Space on disk that the files of a part of the data directory take.")
    for (name, bytes) in state.withLock({ $0.directoryBytes }) { sizes.add([.init("directory", name)], bytes) }
    return [available, size, growth, full, sizes]
  }

  /// The blocks of a folder's files, without folders in it; nil if it can't be read.
  private static func size(of path: String) -> UInt64? {
    guard let directory = opendir(path) else { return nil }
    defer { closedir(directory) }
    var bytes: UInt64 = 0
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: MemoryLayout.size(ofValue: $0.pointee)) { String(cString: $0) }
      }
      var status = stat()
      guard fstatat(dirfd(directory), name, &status, AT_SYMLINK_NOFOLLOW) == 0, status.st_mode & S_IFMT == S_IFREG
      else { continue }
      bytes += UInt64(max(0, status.st_blocks)) * 512
    }
    return bytes
  }
}
