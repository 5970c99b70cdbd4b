import Synchronization

/// Writes the index files of finished segments, behind the writer, on a thread of its own, and merges them when nothing
/// else waits.
final class SegmentSealer: Sendable {
  private enum Job: Sendable {
    case seal(ActiveIndex, FrameExpectation)
    /// Some index file is missing or not sound.
    case look
    /// Someone waits until there is nothing left to do.
    case tell(EndableWait<Void>)
  }

  /// Finished segments whose index is still in memory; the writer waits at this many, so that memory stays bounded.
  static let limit = 4
  /// What is merged though the store is being closed: more waits for the next opening.
  static let closingSegments = MergePlan.fanOut

  private let segments: SegmentSet
  private let disk: any Disk
  private let jobs: Mailbox<Job>
  private let done: Mailbox<Void>
  private let room: Mailbox<Void>
  private let lastFailure: Mutex<LogStoreError?> = Mutex(nil)

  /// Begins with what an earlier writer has left to do.
  init(segments: SegmentSet, disk: any Disk) throws(LogStoreError) {
    self.segments = segments
    self.disk = disk
    jobs = Mailbox(disk.scheduler)
    done = Mailbox(disk.scheduler)
    room = Mailbox(disk.scheduler)
    for _ in 0..<Self.limit { _ = room.send(()) }
    segments.whenIndexMissing { [weak self] in self?.look() }
    try disk.onThread("index sealer") { [self] in run() }
  }

  /// Why an index file could not be written last. No data depends on it: the index is built in memory when it is needed.
  var failure: LogStoreError? { lastFailure.withLock { $0 } }

  /// Makes the index file of a segment that has ended. Called by the writer alone.
  func seal(_ index: ActiveIndex, end: FrameExpectation) {
    var room: [Void] = []
    _ = self.room.receive(into: &room)
    for _ in room.dropFirst() { _ = self.room.send(()) }
    _ = jobs.send(.seal(index, end))
  }

  /// Looks for index files that are missing or not sound, and makes them.
  func look() {
    _ = jobs.send(.look)
  }

  /// Returns once every segment that has ended has its index file, and those are merged as far as they should be. Throws
  /// what stands in the way, `closed`, or `cancelled`.
  func waitUntilDone() async throws(LogStoreError) {
    let wait = EndableWait<Void>()
    try await wait.wait {
      if !jobs.send(.tell(wait)) { wait.end(with: .failure(.closed)) }
    }
  }

  /// Finishes what was asked for, and ends.
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
    private var mustLook = true
    private var isOpen = true

    init(_ sealer: SegmentSealer) {
      self.sealer = sealer
      builder = IndexBuilder(segments: sealer.segments, disk: sealer.disk)
    }

    func run() {
      while true {
        takeJobs()
        if step() { continue }
        answer()
        guard isOpen else { return }
        // Asleep until there is something, or the end.
        isOpen = sealer.jobs.receive(into: &taken)
      }
    }

    /// Does what waits: sealing goes before all else, since the writer waits for it in the end.
    private func takeJobs() {
      isOpen = sealer.jobs.receiveWaiting(into: &taken)
      let jobs = taken
      taken.removeAll(keepingCapacity: true)
      for job in jobs {
        switch job {
        case .seal(let index, let end): seal(index, end)
        case .look:
          mustLook = true
          builder.forgetFailures()
        case .tell(let wait): waiting.append(wait)
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

    /// Does one thing that is left to do when no job waits. False if there is none.
    private func step() -> Bool {
      let step: IndexBuilder.Step
      do throws(LogStoreError) {
        if mustLook {
          mustLook = false
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

    private func answer() {
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
