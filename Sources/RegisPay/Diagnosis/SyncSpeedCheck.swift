import Glibc

/// How long a sync takes, and whether it is real as far as that tells.
///
/// Writes as the log does: 4 KiB into space that was filled with zeros before, then `fdatasync`. The file has no name (`O_TMPFILE`),
/// so that nothing stays when the process is killed; on a file system without such files it loses its name before it is used.
struct SyncSpeedCheck: Check {
  let name = CheckName.syncSpeed
  let directory: String

  private static let count = 200
  private static let blockBytes = 4096
  private static let timeLimit = Duration.seconds(3)
  /// The fastest devices that must write before they respond (NVMe with Optane memory) need about 10 µs for the write alone, and the
  /// two system calls and the block layer the same again.
  private static let fastest = Duration.microseconds(20)
  /// An SSD takes less. A payment waits for four syncs, one after the other.
  private static let slow = Duration.milliseconds(10)
  /// As the alert RegisPaySlowSyncs: docs/observability/alerts.yml.
  private static let slowest = Duration.milliseconds(100)

  private struct Failure: Error {
    var operation: String
    var code = errno
  }

  func run() -> [Finding] {
    let place = DataPlace(directory)
    if let mount = Mount.of(place.existing), mount.kind == .memory {
      return [.notChecked(name, "\(place.existing) is on \(mount.type): it is memory, and a sync does nothing there")]
    }
    do throws(Failure) {
      return [Self.judge(try Self.measure(in: place.existing))]
    } catch {
      let found = "can't \(error.operation) a temporary file in \(place.existing): \(Shown.error(error.code))"
      // Before the first start, the server's user need not have any right to the directory above.
      guard place.isThere, error.code != EACCES, error.code != EPERM else { return [.notChecked(name, found)] }
      return [.problem(name, found, advice: "The server can't write there either: look at the disk (df, dmesg).")]
    }
  }

  /// - Parameter times: of each write with its sync.
  static func judge(_ times: [Duration]) -> Finding {
    let sorted = times.sorted()
    guard let last = sorted.last else { return .notChecked(.syncSpeed, "no sync ended within \(timeLimit)") }
    let median = sorted[sorted.count / 2]
    let high = sorted[min(sorted.count - 1, sorted.count * 99 / 100)]
    let shown =
      "\(times.count) writes of 4 KiB with a sync each took \(Shown.milliseconds(median)) (median),"
      + " \(Shown.milliseconds(high)) (p99), \(Shown.milliseconds(last)) (longest)"
    if median < fastest {
      return .warning(
        .syncSpeed, "\(shown): that is faster than any device that we know, so syncs are probably not real",
        advice: "Find out what ignores them: libeatmydata, a volume with sync=disabled, a virtual machine's cache mode"
          + " \"unsafe\", a disk in memory. A power cut would lose payments that were acknowledged.")
    }
    if median > slow {
      return .warning(
        .syncSpeed, "\(shown): a payment waits for four syncs, one after the other",
        advice: "Use an SSD, best one that keeps its cache at a power cut. Payments at the same time share syncs.")
    }
    if high > slowest {
      return .warning(
        .syncSpeed, "\(shown): now and then a payment waits long",
        advice:
          "Look for other programs that write to the disk (iostat -x), and for errors of the disk (dmesg, smartctl).")
    }
    return .ok(.syncSpeed, shown)
  }

  private static func measure(in directory: String) throws(Failure) -> [Duration] {
    let descriptor = try temporaryFile(in: directory)
    defer { close(descriptor) }
    let zeros = [UInt8](repeating: 0, count: blockBytes)
    for number in 0..<count { try write(zeros, number, descriptor) }
    guard fsync(descriptor) == 0 else { throw Failure(operation: "sync") }
    let block = [UInt8](repeating: 0x5A, count: blockBytes)
    let start = ContinuousClock.now
    var times: [Duration] = []
    for number in 0..<count {
      let before = ContinuousClock.now
      guard before - start < timeLimit else { break }
      try write(block, number, descriptor)
      guard fdatasync(descriptor) == 0 else { throw Failure(operation: "sync") }
      times.append(ContinuousClock.now - before)
    }
    return times
  }

  private static func write(_ block: [UInt8], _ number: Int, _ descriptor: Int32) throws(Failure) {
    while true {
      let written = pwrite(descriptor, block, block.count, off_t(number * blockBytes))
      if written == block.count { return }
      if written < 0, errno == EINTR { continue }
      // Less than a block: the next one says why.
      throw Failure(operation: "write", code: written < 0 ? errno : ENOSPC)
    }
  }

  private static func temporaryFile(in directory: String) throws(Failure) -> Int32 {
    let unnamed = open(directory, OpenFlags.temporary | O_RDWR | O_CLOEXEC, 0o600)
    if unnamed >= 0 { return unnamed }
    // What file systems and kernels without such files say: open(2).
    guard [EOPNOTSUPP, EISDIR, ENOENT, EINVAL].contains(errno) else { throw Failure(operation: "make") }
    let path = "\(directory)/.regispay-doctor-\(getpid())"
    let named = open(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0o600)
    guard named >= 0 else { throw Failure(operation: "make") }
    guard unlink(path) == 0 else {
      let failure = Failure(operation: "remove")
      close(named)
      throw failure
    }
    return named
  }
}
