import Synchronization

/// Makes the file of the next segment ahead of the writer, on a thread of its own: written full of zeros and synced, so
/// that no append waits for that, and every later write goes to space that is written already (on ext4 a synced write
/// into space that is only allocated costs nearly twice as much).
final class SegmentMaker: Sendable {
  struct Made: Sendable {
    var file: any File
    var byteCount: Int
  }

  private enum Job: Sendable {
    case prepare
    /// The writer waits: with at least this many bytes.
    case hand(Int, Slot)
  }

  /// Where the answer for a waiting writer goes.
  private typealias Slot = Mailbox<Result<Made, LogStoreError>>

  /// Less than this isn't worth a file.
  static let smallestByteCount = 1 << 20

  private let directory: String
  private let disk: any Disk
  private let byteCount: Int
  private let jobs = Mailbox<Job>()
  private let done = Mailbox<Void>()
  private let isStopped = Atomic(false)

  init(directory: String, disk: any Disk, byteCount: Int) {
    self.directory = directory
    self.disk = disk
    self.byteCount = byteCount
    startThread("segment maker") { [self] in run() }
  }

  /// Begins to make the next file, if there is none yet.
  func prepare() {
    _ = jobs.send(.prepare)
  }

  /// The next file, of at least so many bytes, under the name ``path``; waits for it if it isn't ready.
  func take(atLeast needed: Int) throws(LogStoreError) -> Made {
    let slot = Slot()
    guard jobs.send(.hand(needed, slot)) else { throw .closed }
    var answers: [Result<Made, LogStoreError>] = []
    guard slot.receive(into: &answers), let answer = answers.first else { throw .closed }
    return try answer.get()
  }

  /// Where the file stands until it gets its name.
  var path: String { join(directory, "next" + FileName.aside) }

  /// Ends the thread, waits for that, and removes what it has made ahead. To be called before the store's lock is
  /// released: the next writer uses the same name.
  func stop() {
    isStopped.store(true, ordering: .releasing)
    jobs.close()
    var taken: [Void] = []
    _ = done.receive(into: &taken)
  }

  private func run() {
    var ready: Made?
    var taken: [Job] = []
    while jobs.receive(into: &taken) {
      for job in taken {
        switch job {
        case .prepare:
          // A failure here is no one's error yet: the writer meets it again when it needs the file.
          if ready == nil { ready = try? make(atLeast: 0) }
        case .hand(let needed, let slot):
          let result = Result { () throws(LogStoreError) -> Made in
            if let made = ready, made.byteCount >= needed { return made }
            return try make(atLeast: needed)
          }
          if case .success = result { ready = nil }
          _ = slot.send(result)
        }
      }
      taken.removeAll()
    }
    // Left behind by a process that dies, and removed by the next writer; what can't be removed here is too.
    try? disk.remove(path)
    done.close()
  }

  /// Writes a file of the set size; more if one frame needs it, less if the disk has no more but it still suffices.
  private func make(atLeast needed: Int) throws(LogStoreError) -> Made {
    var byteCount = max(byteCount, needed.roundedUp(to: SegmentHeader.byteCount))
    while true {
      do throws(LogStoreError) {
        return try prewrite(byteCount)
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

  private func prewrite(_ byteCount: Int) throws(LogStoreError) -> Made {
    let file = try disk.open(path, .create)
    let zeros = [UInt8](repeating: 0, count: min(byteCount, 1 << 20))
    var position = 0
    while position < byteCount {
      if isStopped.load(ordering: .acquiring) { throw .closed }
      let count = min(zeros.count, byteCount - position)
      try file.write(count == zeros.count ? zeros : Array(zeros[..<count]), at: UInt64(position))
      position += count
      // Little by little: one sync of the whole file would hold up the syncs of the appends that go on meanwhile.
      try file.sync()
    }
    return Made(file: file, byteCount: byteCount)
  }
}

extension Int {
  func roundedUp(to unit: Int) -> Int { (self + unit - 1) / unit * unit }
}
