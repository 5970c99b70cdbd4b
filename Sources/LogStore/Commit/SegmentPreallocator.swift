import Synchronization

/// Makes the file of the next segment ahead of the writer, on a thread of its own: reserved as a whole, and written full
/// of zeros little by little, since on ext4 a synced write into space that is only reserved costs up to twice as much.
///
/// How far it is written is the writer's to say: about as fast as the writer fills the segment before, so that neither
/// waits for the other's syncs; and not at all for buffered appends, which gain nothing by it.
final class SegmentPreallocator: Sendable {
  struct Made: Sendable {
    var file: any File
    var byteCount: Int
  }

  private enum Job: Sendable {
    case prepare(Zeros)
    /// Of a part of any file.
    case startWriteback(any File, position: UInt64, byteCount: UInt64)
    /// The writer waits: with at least this many bytes.
    case hand(Int, Slot)
  }

  /// How much of the next file is to be written full of zeros.
  struct Zeros: Sendable {
    var byteCount: Int
    /// Bytes of one write. The kernel keeps what was written together as one unit of its cache, and handles all of that
    /// for every part that is written anew: it should be about as large as the frames will be.
    var unitByteCount: Int

    static let smallest = 4 << 10
    static let largest = 256 << 10
  }

  /// A file as far as it is made.
  private struct Ready {
    var made: Made
    var zeroByteCount = 0
  }

  /// Where the answer for a waiting writer goes.
  private typealias Slot = Mailbox<Result<Made, LogStoreError>>

  /// Less than this isn't worth a file.
  static let smallestByteCount = 1 << 20
  /// Zeros are handed to the disk in pieces of this size, so that a sync of the writer never waits for many of them.
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

  /// Goes on with the next file, as far as is said. Returns at once.
  func prepare(_ zeros: Zeros) {
    _ = jobs.send(.prepare(zeros))
  }

  /// Asks the disk to begin with a part of a file. Returns at once, where the call itself may wait for the disk.
  func startWriteback(of file: any File, at position: Int, byteCount: Int) {
    _ = jobs.send(.startWriteback(file, position: UInt64(position), byteCount: UInt64(byteCount)))
  }

  /// The next file, of at least so many bytes, under the name ``path``; waits for it if it isn't ready.
  func take(atLeast needed: Int) throws(LogStoreError) -> Made {
    let slot = Slot(disk.scheduler)
    guard jobs.send(.hand(needed, slot)) else { throw .closed }
    var answers: [Result<Made, LogStoreError>] = []
    guard slot.receive(into: &answers), let answer = answers.first else { throw .closed }
    return try answer.get()
  }

  /// Where the file stands until it gets its name.
  var path: String { join(directory, FileName.next) }

  /// Ends the thread, waits for that, and removes what it has made ahead. To be called before the store's lock is
  /// released: the next writer uses the same name.
  func stop() {
    isStopped.store(true, ordering: .releasing)
    jobs.close()
    var taken: [Void] = []
    _ = done.receive(into: &taken)
  }

  private func run() {
    var ready: Ready?
    var taken: [Job] = []
    while jobs.receive(into: &taken) {
      for (number, job) in taken.enumerated() {
        switch job {
        case .prepare(let zeros):
          if number + 1 < taken.count, case .prepare = taken[number + 1] { continue }
          // A failure here is no one's error yet: the writer meets it again when it needs the file.
          do throws(LogStoreError) {
            var going: Ready
            if let ready { going = ready } else { going = try make(atLeast: 0) }
            ready = nil
            try write(zeros, to: &going)
            ready = going
          } catch {
            ready = nil
          }
        case .startWriteback(let file, let position, let byteCount):
          file.startWriteback(at: position, byteCount: byteCount)
        case .hand(let needed, let slot):
          let result = Result { () throws(LogStoreError) -> Made in
            if let ready, ready.made.byteCount >= needed { return ready.made }
            // The name is used again, so that what was ready is no more, whether this succeeds or not.
            ready = nil
            return try make(atLeast: needed).made
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

  /// Makes a file of the set size; larger if one frame needs it, smaller if the disk has no more but it still suffices.
  private func make(atLeast needed: Int) throws(LogStoreError) -> Ready {
    var byteCount = max(byteCount, needed.roundedUp(to: SegmentHeader.byteCount))
    while true {
      do throws(LogStoreError) {
        let file = try disk.open(path, .create)
        var ready = Ready(made: Made(file: file, byteCount: byteCount))
        if try !file.allocate(byteCount: UInt64(byteCount)) {
          // Only by writing it can the space be had for certain.
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
    let end = min(zeros.byteCount, ready.made.byteCount)
    guard ready.zeroByteCount < end else { return }
    let unit = [UInt8](repeating: 0, count: zeros.unitByteCount)
    var started = ready.zeroByteCount
    while ready.zeroByteCount < end {
      if isStopped.load(ordering: .acquiring) { throw .closed }
      let count = min(unit.count, ready.made.byteCount - ready.zeroByteCount)
      try ready.made.file.write(count == unit.count ? unit : Array(unit[..<count]), at: UInt64(ready.zeroByteCount))
      ready.zeroByteCount += count
      if ready.zeroByteCount - started >= Self.writebackByteCount || ready.zeroByteCount >= end {
        ready.made.file.startWriteback(at: UInt64(started), byteCount: UInt64(ready.zeroByteCount - started))
        started = ready.zeroByteCount
      }
    }
    // What is left for the sync that begins the segment is its header.
    if ready.zeroByteCount == ready.made.byteCount { try ready.made.file.sync() }
  }
}

extension Int {
  func roundedUp(to unit: Int) -> Int { (self + unit - 1) / unit * unit }
}
