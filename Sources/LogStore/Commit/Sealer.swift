import Synchronization

/// Writes the index files of finished segments, behind the writer, on a thread of its own.
final class Sealer: Sendable {
  private enum Job: Sendable {
    case seal(OpenIndex, FrameExpectation)
    case build(UInt64)
  }

  /// Finished segments whose index is still in memory; the writer waits at this many, so that memory stays bounded.
  static let limit = 4

  private let segments: SegmentSet
  private let disk: any Disk
  private let jobs = Mailbox<Job>()
  private let done = Mailbox<Void>()
  private let room = Mailbox<Void>()
  private let lastFailure: Mutex<LogStoreError?> = Mutex(nil)

  init(segments: SegmentSet, disk: any Disk) {
    self.segments = segments
    self.disk = disk
    for _ in 0..<Self.limit { _ = room.send(()) }
    startThread("index sealer") { [self] in run() }
  }

  /// Why an index file could not be written last. No data depends on it: the index is built in memory when it is needed.
  var failure: LogStoreError? { lastFailure.withLock { $0 } }

  /// Makes the index file of a segment that has ended. Called by the writer alone.
  func seal(_ index: OpenIndex, end: FrameExpectation) {
    var room: [Void] = []
    _ = self.room.receive(into: &room)
    for _ in room.dropFirst() { _ = self.room.send(()) }
    _ = jobs.send(.seal(index, end))
  }

  /// Makes the missing index file of a finished segment.
  func build(_ baseOffset: UInt64) {
    _ = jobs.send(.build(baseOffset))
  }

  /// Finishes what was asked for, and ends.
  func finish() {
    jobs.close()
    var taken: [Void] = []
    _ = done.receive(into: &taken)
  }

  private func run() {
    var taken: [Job] = []
    while jobs.receive(into: &taken) {
      for job in taken { perform(job) }
      taken.removeAll()
    }
    done.close()
  }

  private func perform(_ job: Job) {
    do throws(LogStoreError) {
      switch job {
      case .seal(let index, let end):
        let base = index.segment.baseOffset
        defer {
          segments.sealed(base)
          _ = room.send(())
        }
        let bytes = index.state.withLock { IndexFile.encode($0, of: index.segment, end: end) }
        try disk.replace(join(segments.directory, FileName.index(base)), with: bytes)
      case .build(let base):
        if try !segments.hasIndexFile(base) { _ = try segments.writeIndex(of: base) }
      }
    } catch {
      lastFailure.withLock { $0 = error }
    }
  }
}
