import Glibc
import Synchronization

/// What a ``Scrub`` does on its thread. The thread keeps this object, not the scrub, so the scrub can be released.
final class ScrubLoop: Sendable {
  private struct State {
    var report = Scrub.Report()
    /// Findings of the present round.
    var fresh: [Damage] = []
  }

  /// The next segment, and when the round began.
  private struct Checkpoint {
    var nextBase: UInt64 = 0
    var roundStart: UInt64 = 0
  }

  private let segments: SegmentSet
  private let options: Scrub.Options
  private let onDamage: @Sendable (Damage) -> Void
  private let state = Mutex(State())
  private let stopping = Stopping()
  private let ended: Mailbox<Void>
  private let thread = Mutex<pthread_t?>(nil)

  init(_ segments: SegmentSet, _ options: Scrub.Options, onDamage: @escaping @Sendable (Damage) -> Void) {
    self.segments = segments
    self.options = options
    self.onDamage = onDamage
    ended = Mailbox(segments.disk.scheduler)
  }

  var report: Scrub.Report { state.withLock { $0.report } }

  /// Asks it to end, and does not wait.
  func end() { stopping.stop() }

  func stop() {
    end()
    // On its own thread it would wait for itself.
    if thread.withLock({ $0 }).map({ pthread_equal($0, pthread_self()) != 0 }) ?? false { return }
    var taken: [Void] = []
    _ = ended.receive(into: &taken)
  }

  func start() throws(LogStoreError) {
    try segments.disk.onThread("log scrub") { [self] in
      thread.withLock { $0 = pthread_self() }
      run()
      ended.close()
    }
  }

  private func run() {
    var checkpoint = readCheckpoint()
    // Proof: the options were checked, so the number is neither negative nor too large.
    let interval = UInt64(max(options.interval, .seconds(1)) / .microseconds(1))
    while !stopping.isStopped {
      let now = segments.disk.now()
      if checkpoint.nextBase == 0 {
        // A clock that was set back must not delay it.
        if checkpoint.roundStart > 0, checkpoint.roundStart <= now {
          let past = now - checkpoint.roundStart
          if past < interval {
            _ = stopping.wait(microseconds: interval - past)
            continue
          }
        }
        checkpoint.roundStart = now
      }
      guard round(&checkpoint) else { return }
    }
  }

  /// Runs one round, or the rest of one. Returns false if it was stopped.
  func runOnce() -> Bool {
    var checkpoint = Checkpoint(nextBase: 0, roundStart: segments.disk.now())
    return round(&checkpoint)
  }

  private func round(_ checkpoint: inout Checkpoint) -> Bool {
    let pace = Pace(options.bytesPerSecond, stopping)
    let run = ScrubRun(segments) {
      pace.pause(after: $0)
    } found: {
      self.note($0)
    } read: { byteCount in
      self.state.withLock { $0.report.bytes += byteCount }
    }
    var isSound = true
    noteProgress(checkpoint)
    if checkpoint.nextBase == 0, !run.readIndexes() { return false }
    while let base = segments.bases.dropLast().first(where: { $0 >= checkpoint.nextBase }) {
      guard run.readSegment(base) else { return false }
      checkpoint.nextBase = base + 1
      noteProgress(checkpoint)
      isSound = isSound && state.withLock { $0.fresh.isEmpty }
      // Behind a damaged file, progress is not recorded.
      if isSound { write(checkpoint) }
    }
    checkpoint.nextBase = 0
    if isSound { write(checkpoint) }
    state.withLock { state in
      state.report.rounds += 1
      state.report.progress = 1
      state.report.findings = state.fresh
      state.fresh = []
    }
    return true
  }

  private func noteProgress(_ checkpoint: Checkpoint) {
    let finished = segments.bases.dropLast()
    let done = finished.partitionPoint { $0 >= checkpoint.nextBase }
    state.withLock { $0.report.progress = finished.isEmpty ? 1 : Double(done) / Double(finished.count) }
  }

  private func note(_ damage: Damage) {
    let isNew = state.withLock { state in
      state.fresh.append(damage)
      if state.report.findings.contains(damage) { return false }
      state.report.findings.append(damage)
      return true
    }
    if isNew { onDamage(damage) }
  }

  // MARK: - Its checkpoint

  private var path: String { join(segments.directory, Scrub.fileName) }

  private func readCheckpoint() -> Checkpoint {
    // If the checkpoint is missing or can't be read, one round starts from the beginning; nothing else depends on it.
    guard let bytes = try? segments.disk.contents(path, limit: 100) else { return Checkpoint() }
    let numbers = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace).compactMap { UInt64($0) }
    guard numbers.count == 2 else { return Checkpoint() }
    return Checkpoint(nextBase: numbers[0], roundStart: numbers[1])
  }

  /// Not synced: an older checkpoint costs some reading, and a broken one a round.
  private func write(_ checkpoint: Checkpoint) {
    // A failure here is ignored: the log's own writes report a bad disk. The scrub continues, and its next start reads
    // more.
    guard let file = try? segments.disk.open(path, .create) else { return }
    try? file.write(Array("\(checkpoint.nextBase) \(checkpoint.roundStart)\n".utf8))
  }
}

/// Limits a reader to a rate.
private final class Pace {
  private let bytesPerSecond: UInt64
  private let stopping: Stopping
  private let start = ContinuousClock.now
  private var bytes: UInt64 = 0

  init(_ bytesPerSecond: UInt64, _ stopping: Stopping) {
    self.bytesPerSecond = max(bytesPerSecond, 64 << 10)
    self.stopping = stopping
  }

  /// Waits until `byteCount` more bytes are due. Returns false if it is stopped.
  func pause(after byteCount: UInt64) -> Bool {
    let (sum, overflow) = bytes.addingReportingOverflow(byteCount)
    bytes = overflow ? .max : sum
    let due = Double(bytes) / Double(bytesPerSecond) * 1_000_000
    let past = Double((ContinuousClock.now - start) / .microseconds(1))
    return due > past ? stopping.wait(microseconds: UInt64(due - past)) : !stopping.isStopped
  }
}

/// A wait that can be ended.
///
/// `@unchecked Sendable` is safe: the flag is read and written only while the mutex is held, and the pthread objects live at a
/// fixed address until `deinit`, which runs only when no thread holds a reference.
private final class Stopping: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var stopped = false

  init() {
    pthread_mutex_init(mutex, nil)
    // A wait must not depend on a clock that is set, or wrong.
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(condition, &attributes)
    pthread_condattr_destroy(&attributes)
  }

  deinit {
    pthread_cond_destroy(condition)
    pthread_mutex_destroy(mutex)
    condition.deallocate()
    mutex.deallocate()
  }

  var isStopped: Bool {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return stopped
  }

  func stop() {
    pthread_mutex_lock(mutex)
    stopped = true
    pthread_mutex_unlock(mutex)
    pthread_cond_broadcast(condition)
  }

  /// Returns false if it was stopped before the time was over.
  func wait(microseconds: UInt64) -> Bool {
    var until = timespec()
    clock_gettime(CLOCK_MONOTONIC, &until)
    let nanoseconds = UInt64(until.tv_nsec) + microseconds % 1_000_000 * 1000
    until.tv_sec += Int(min(microseconds / 1_000_000, 1 << 31)) + Int(nanoseconds / 1_000_000_000)
    until.tv_nsec = Int(nanoseconds % 1_000_000_000)
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    while !stopped {
      if pthread_cond_timedwait(condition, mutex, &until) == ETIMEDOUT { break }
    }
    return !stopped
  }
}
