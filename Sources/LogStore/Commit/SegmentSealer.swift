import Synchronization

/// Writes the index files of finished segments, behind the writer, on a thread of its own, and merges them when nothing
/// else waits.
final class SegmentSealer: Sendable {
  private enum Job: Sendable {
    case seal(ActiveIndex, FrameExpectation)
    /// Some index file is missing or unsound.
    case recheck
    /// A caller waits until there is nothing left to do.
    case notify(EndableWait<Void>)
  }

  /// The number of finished segments whose index may still be in memory. The writer waits at this many, so that memory
  /// stays bounded.
  static let limit = 4
  /// Merges of up to this many segments still run while the store closes; larger ones wait for the next opening.
  static let closingSegments = MergePlan.fanOut

  private let segments: SegmentSet
  private let disk: any Disk
  private let jobs: Mailbox<Job>
  private let done: Mailbox<Void>
  private let room: Mailbox<Void>
  private let lastFailure: Mutex<LogStoreError?> = Mutex(nil)

  /// Begins with what an earlier writer left to do.
  init(segments: SegmentSet, disk: any Disk) throws(LogStoreError) {
    self.segments = segments
    self.disk = disk
    jobs = Mailbox(disk.scheduler)
    done = Mailbox(disk.scheduler)
    room = Mailbox(disk.scheduler)
    for _ in 0..<Self.limit { _ = room.send(()) }
    segments.whenIndexMissing { [weak self] in self?.recheck() }
    try disk.onThread("index sealer") { [self] in run() }
  }

  /// Why the last index file could not be written. No data depends on it: the index is built in memory when it is needed.
  var failure: LogStoreError? { lastFailure.withLock { $0 } }

  /// Makes the index file of a segment that has ended. Called by the writer only.
  func seal(_ index: ActiveIndex, end: FrameExpectation) {
    var room: [Void] = []
    _ = self.room.receive(into: &room)
    for _ in room.dropFirst() { _ = self.room.send(()) }
    _ = jobs.send(.seal(index, end))
  }

  /// Finds index files that are missing or unsound, and rebuilds them.
  func recheck() {
    _ = jobs.send(.recheck)
  }

  /// Returns once every finished segment has its index file and the files are merged as far as they should be. Throws the
  /// error that prevents it, `closed`, or `cancelled`.
  func waitUntilDone() async throws(LogStoreError) {
    let wait = EndableWait<Void>()
    try await wait.wait {
      if !jobs.send(.notify(wait)) { wait.end(with: .failure(.closed)) }
    }
  }

  /// Finishes the jobs that were sent, and ends.
  func finish() {
    jobs.close()
    var taken: [Void] = []
    _ = done.receive(into: &taken)
  }

  private func run() {
    Worker(self).run()
    done.close()
  }

  /// What the thread does.
  private final class Worker {
    private let sealer: SegmentSealer
    private let builder: IndexBuilder
    private var taken: [Job] = []
    private var waiting: [EndableWait<Void>] = []
    private var mustRecheck = true
    private var isOpen = true

    init(_ sealer: SegmentSealer) {
      self.sealer = sealer
      builder = IndexBuilder(segments: sealer.segments, disk: sealer.disk)
    }

    func run() {
      while true {
        takeJobs()
        if step() { continue }
        notifyWaiters()
        guard isOpen else { return }
        // Sleeps until there is a job, or the end.
        isOpen = sealer.jobs.receive(into: &taken)
      }
    }

    /// Takes the waiting jobs. Sealing goes first, since the writer waits for it in the end.
    private func takeJobs() {
      isOpen = sealer.jobs.receiveWaiting(into: &taken)
      let jobs = taken
      taken.removeAll(keepingCapacity: true)
      for job in jobs {
        switch job {
        case .seal(let index, let end): seal(index, end)
        case .recheck:
          mustRecheck = true
          builder.forgetFailures()
        case .notify(let wait): waiting.append(wait)
        }
      }
    }

    private func seal(_ index: ActiveIndex, _ end: FrameExpectation) {
      defer { _ = sealer.room.send(()) }
      builder.forgetFailures()
      do throws(LogStoreError) {
        try builder.seal(index, end: end)
      } catch {
        sealer.segments.discardIndex(of: index.segment.baseOffset)
        note(error)
      }
    }

    private func note(_ error: LogStoreError) {
      sealer.lastFailure.withLock { $0 = error }
    }

    /// Takes one step of background work. Returns false if there is none.
    private func step() -> Bool {
      let step: IndexBuilder.Step
      do throws(LogStoreError) {
        if mustRecheck {
          mustRecheck = false
          for file in try builder.clean().files where isOpen {
            file.keepStreamFilterReady()
            takeJobs()
          }
        }
        guard let next = try builder.nextStep(), isOpen || next.segmentCount <= SegmentSealer.closingSegments else {
          return false
        }
        step = next
      } catch {
        note(error)
        return false
      }
      do throws(IndexFailure) {
        try builder.perform(step) { [self] () throws(IndexFailure) in
          takeJobs()
          if !isOpen, step.segmentCount > SegmentSealer.closingSegments { throw .stopped }
        }
      } catch {
        switch error {
        case .log(let error): note(error)
        case .index(let file, let fault, _): note(file.damage(fault))
        case .sharedKey, .stopped: break
        }
      }
      return true
    }

    private func notifyWaiters() {
      guard !waiting.isEmpty else { return }
      var result = Result<Void, LogStoreError>.success(())
      do throws(LogStoreError) {
        if builder.hasFailed, let failure = sealer.failure { throw failure }
        if try builder.nextStep() != nil { throw .closed }
      } catch {
        result = .failure(error)
      }
      for wait in waiting { wait.end(with: result) }
      waiting.removeAll()
    }
  }
}
