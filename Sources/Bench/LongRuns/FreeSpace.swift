import Glibc

/// Refuses work that the disk has no room for.
enum FreeSpace {
  /// Always kept free.
  private static let reserveBytes = 1 << 30
  /// An upper bound of synced appends per second, for work that runs for a time.
  static let syncedEventsPerSecond = 250_000

  /// - Parameter directory: must be there.
  static func check(_ needed: Int, in directory: String, for work: String) throws {
    var status = statvfs()
    guard statvfs(directory, &status) == 0 else {
      throw BenchError("the free space of \(directory) can't be told: \(String(cString: strerror(errno)))")
    }
    let free = Int(clamping: UInt64(status.f_bavail) * UInt64(status.f_frsize))
    guard free >= needed + reserveBytes else {
      throw BenchError(
        "\(work) needs up to \(bytes(Double(needed + reserveBytes))) in \(directory), and \(bytes(Double(free))) are"
          + " free; free some space, name another --dir, or ask for less")
    }
  }
}
