import Glibc

/// Refuses work that the disk has no room for.
enum FreeSpace {
  /// Kept free whatever the work.
  private static let reserveBytes = 1 << 30
  /// More events a second than are ever appended synced here, for works that go on for a time.
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
