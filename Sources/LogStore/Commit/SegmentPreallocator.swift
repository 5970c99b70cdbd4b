import Synchronization

/// Creates the next segment's file ahead of the writer, on a thread of its own. The whole file is reserved, then gradually
/// filled with zeros: on ext4 a synced write into space that is only reserved costs up to twice as much.
///
/// The writer decides how much is filled: about as fast as it fills the current segment, so that neither waits for the
/// other's syncs, and nothing for buffered appends, which gain nothing from it.
///
/// Anybody may remove or replace the file before it gets its name. Then another one is made, and what is found in its place
/// is treated as at opening (``OwnFiles``).
final class SegmentPreallocator: Sendable {
  struct Preallocated: Sendable {
    var file: any File
    var byteCount: Int
  }

  private enum Job: Sendable {
    case prepare(Zeros)
    /// Start the write-back of a part of any file.
    case startWriteback(any File, position: UInt64, byteCount: UInt64)
    /// Hand over a file of at least this many bytes: the writer waits for it.
    case hand(Int, Slot)
  }

  /// How much of the next file is filled with zeros.
  struct Zeros: Sendable {
    var byteCount: Int
    /// Bytes of one write. The kernel keeps what was written together as one unit of its cache, and handles the whole unit
    /// whenever a part of it is written again. The unit should be about as large as the frames will be.
    var unitByteCount: Int

    static let smallest = 4 << 10
    static let largest = 256 << 10
  }

  /// A file and how much of it is filled.
  private struct Ready {
    var preallocated: Preallocated
    var zeroByteCount = 0
  }

  /// Where the result for a waiting writer goes.
  private typealias Slot = Mailbox<Result<Preallocated, LogStoreError>>

  /// A smaller file isn't worth the effort.
  static let smallestByteCount = 1 << 20
  /// Zeros go to the disk in pieces of this size, so that a sync of the writer never waits for many of them.
  private static let writebackByteCount = 256 << 10

  private let directory: String
  private let disk: any Disk
  private let byteCount: Int
  private let jobs: Mailbox<Job>
  private let done: Mailbox<Void>
  private let isStopped = Atomic(false)

  init(directory: String, disk: any Disk, byteCount: Int) throws(LogStoreError) {
    self.directory = directory
    self.disk = disk
    self.byteCount = byteCount
    jobs = Mailbox(disk.scheduler)
    done = Mailbox(disk.scheduler)
    try disk.onThread("segment maker") { [self] in run() }
  }

  /// Continues to prepare the next file. Returns at once.
  func prepare(_ zeros: Zeros) {
    _ = jobs.send(.prepare(zeros))
  }

  /// Asks the disk to start writing a part of a file. Returns at once, although the system call itself may wait for the
  /// disk.
  func startWriteback(of file: any File, at position: Int, byteCount: Int) {
    _ = jobs.send(.startWriteback(file, position: UInt64(position), byteCount: UInt64(byteCount)))
  }

  /// The next file, of at least `needed` bytes, under the name ``path``. Waits for it if it isn't ready. Check that it is
  /// still there before giving it its name: ``File/checkPath(_:)``.
  func take(atLeast needed: Int) throws(LogStoreError) -> Preallocated {
    let slot = Slot(disk.scheduler)
    guard jobs.send(.hand(needed, slot)) else { throw .closed }
    var results: [Result<Preallocated, LogStoreError>] = []
    guard slot.receive(into: &results), let result = results.first else { throw .closed }
    return try result.get()
  }

  /// The file's path until it is renamed to a segment's.
  var path: String { join(directory, FileName.next) }

  /// Ends the thread, waits for it, and removes the file that it prepared. Called before the store's lock is released: the
  /// next writer uses the same name.
  func stop() {
    isStopped.store(true, ordering: .releasing)
    jobs.close()
    var taken: [Void] = []
    _ = done.receive(into: &taken)
  }

  private func run() {
    var ready: Ready?
    // The last file that got the name.
    var made: (any File)?
    var taken: [Job] = []
    while jobs.receive(into: &taken) {
      for (number, job) in taken.enumerated() {
        switch job {
        case .prepare(let zeros):
          if number + 1 < taken.count, case .prepare = taken[number + 1] { continue }
          // A failure here is ignored: the writer meets it again when it needs the file.
          do throws(LogStoreError) {
            var going: Ready
            if let ready { going = ready } else { going = try make(atLeast: 0, replacing: &made) }
            ready = nil
            try write(zeros, to: &going)
            ready = going
          } catch {
            ready = nil
          }
        case .startWriteback(let file, let position, let byteCount):
          file.startWriteback(at: position, byteCount: byteCount)
        case .hand(let needed, let slot):
          let result = Result { () throws(LogStoreError) -> Preallocated in
            if let ready, ready.preallocated.byteCount >= needed, try isInPlace(ready.preallocated.file) {
              return ready.preallocated
            }
            // The name is reused, so the prepared file is lost, whether this succeeds or not.
            ready = nil
            return try make(atLeast: needed, replacing: &made).preallocated
          }
          if case .success = result { ready = nil }
          _ = slot.send(result)
        }
      }
      taken.removeAll()
    }
    // A process that is killed leaves the file behind, and the next writer removes it. The same holds if it can't be
    // removed here.
    if let made, (try? isInPlace(made)) ?? false { try? disk.remove(path) }
    done.close()
  }

  /// Whether the name still leads to a file that was made here.
  private func isInPlace(_ file: any File) throws(LogStoreError) -> Bool {
    do throws(LogStoreError) {
      try file.checkPath(path)
      return true
    } catch .segmentLost {
      return false
    }
  }

  /// Creates a file of the configured size: larger if one frame needs it, smaller if the disk has no more space and it
  /// still suffices.
  ///
  /// - Parameter made: the last file that got the name, which the new one may replace.
  private func make(atLeast needed: Int, replacing made: inout (any File)?) throws(LogStoreError) -> Ready {
    var byteCount = max(byteCount, needed.roundedUp(to: SegmentHeader.byteCount))
    while true {
      do throws(LogStoreError) {
        if try made.map(isInPlace) != true {
          try OwnFiles(directory: directory, disk: disk).removeUnfinished(FileName.next)
        }
        let file = try disk.open(path, .create)
        made = file
        var ready = Ready(preallocated: Preallocated(file: file, byteCount: byteCount))
        if try !file.allocate(byteCount: UInt64(byteCount)) {
          // Only a write can get the space for certain.
          try write(Zeros(byteCount: byteCount, unitByteCount: Zeros.largest), to: &ready)
        }
        return ready
      } catch .diskFull(let operation, let path) {
        try disk.remove(self.path)
        let smaller = (byteCount / 2).roundedUp(to: SegmentHeader.byteCount)
        guard smaller >= Self.smallestByteCount, smaller >= max(needed, 2 * SegmentHeader.byteCount) else {
          throw .diskFull(operation: operation, path: path)
        }
        byteCount = smaller
      }
    }
  }

  private func write(_ zeros: Zeros, to ready: inout Ready) throws(LogStoreError) {
    let end = min(zeros.byteCount, ready.preallocated.byteCount)
    guard ready.zeroByteCount < end else { return }
    let unit = [UInt8](repeating: 0, count: zeros.unitByteCount)
    var started = ready.zeroByteCount
    while ready.zeroByteCount < end {
      if isStopped.load(ordering: .acquiring) { throw .closed }
      let count = min(unit.count, ready.preallocated.byteCount - ready.zeroByteCount)
      try ready.preallocated.file.write(
        count == unit.count ? unit : Array(unit[..<count]), at: UInt64(ready.zeroByteCount))
      ready.zeroByteCount += count
      if ready.zeroByteCount - started >= Self.writebackByteCount || ready.zeroByteCount >= end {
        ready.preallocated.file.startWriteback(at: UInt64(started), byteCount: UInt64(ready.zeroByteCount - started))
        started = ready.zeroByteCount
      }
    }
    // The sync that begins the segment then has only the header to write.
    if ready.zeroByteCount == ready.preallocated.byteCount { try ready.preallocated.file.sync() }
  }
}

extension Int {
  func roundedUp(to unit: Int) -> Int { (self + unit - 1) / unit * unit }
}
