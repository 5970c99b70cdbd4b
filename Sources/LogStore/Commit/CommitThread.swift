import Synchronization

/// Everything that the commit thread starts with.
struct CommitStart: Sendable {
  private let directory: String
  private let options: StoreOptions
  private let disk: any Disk
  private let lock: any FileLock
  private let commitPoint: CommitPoint
  private let file: any File
  private let end: FrameExpectation
  private let tail: Handover<TailFile>
  private let preallocator: SegmentPreallocator
  let sealer: SegmentSealer

  /// Starts the threads beside the commit thread. If one can't be created, none keeps running, and the lock is released.
  init(
    _ opened: consuming Recovery.Opened, directory: String, options: StoreOptions
  ) throws(LogStoreError) {
    self.directory = directory
    self.options = options
    disk = opened.disk
    lock = opened.lock
    commitPoint = opened.commitPoint
    file = opened.file
    end = opened.end
    tail = Handover(opened.tail)
    sealer = try SegmentSealer(segments: commitPoint.segments, disk: disk)
    do throws(LogStoreError) {
      preallocator = try SegmentPreallocator(directory: directory, disk: disk, byteCount: options.segmentBytes)
    } catch {
      sealer.finish()
      throw error
    }
  }

  /// Used instead of ``run(_:status:closing:)``: ends the threads and releases the lock.
  func abandon() {
    preallocator.stop()
    sealer.finish()
    lock.release()
  }

  /// The body of the commit thread.
  func run(_ mailbox: Mailbox<CommitRequest>, status: CommitStatus, closing: Closing) {
    let segments = commitPoint.segments
    var loop = CommitLoop(
      disk: disk, options: options, commitPoint: commitPoint, tail: tail.take(), status: status,
      writer: LogWriter(
        disk: disk, directory: directory, segments: segments, file: file, end: end, cursors: commitPoint.cursors,
        preallocator: preallocator, sealer: sealer))
    do throws(LogStoreError) {
      try loop.announce()
    } catch {
      status.fail(error)
    }
    let end = loop.run(mailbox)
    preallocator.stop()
    sealer.finish()
    closing.finish(
      with: Result { () throws(LogStoreError) in
        if closing.isAbandoned { return }
        if let failure = status.failure { throw .stopped(cause: failure.description) }
        guard let end else { return }
        try Self.recordEnd(commitPoint, end.end, chain: end.chain, directory: directory, disk: disk)
        try loop.announce(.closed)
      }
    ) {
      // The lock is released before any caller is notified that the store is closed, so that it can be opened again at
      // once.
      lock.release()
    }
  }

  static func recordEnd(
    _ commitPoint: CommitPoint, _ end: DurableEnd? = nil, chain: UInt32, directory: String, disk: any Disk
  ) throws(LogStoreError) {
    let end = end ?? commitPoint.end
    let clean = CleanEnd(
      storeID: commitPoint.segments.storeID, endOffset: end.offset, baseOffset: end.baseOffset,
      endPosition: UInt64(end.position), chain: chain)
    try disk.replace(join(directory, FileName.clean), with: clean.encoded())
  }
}

/// Passes a noncopyable value to another thread, once.
final class Handover<Value: ~Copyable & Sendable>: Sendable {
  private let value: Mutex<Value?>

  init(_ value: consuming sending Value) {
    self.value = Mutex(value)
  }

  /// Takes the value. Traps the second time.
  func take() -> Value {
    let taken = value.withLock { value -> Value? in
      var taken: Value? = nil
      swap(&taken, &value)
      return taken
    }
    guard let taken else { preconditionFailure("taken twice") }
    return taken
  }
}

/// The closing of a store: the callers that wait for it, and its result.
final class Closing: Sendable {
  private enum State {
    case open
    case waiting([UnsafeContinuation<Result<Void, LogStoreError>, Never>])
    case abandoned
    case finished(Result<Void, LogStoreError>)
  }

  private let state = Mutex(State.open)

  /// Records that no caller will ever wait.
  func abandon() {
    state.withLock { if case .open = $0 { $0 = .abandoned } }
  }

  var isAbandoned: Bool {
    state.withLock { if case .abandoned = $0 { true } else { false } }
  }

  /// Begins to close, and returns the result, the same to every caller.
  func wait(_ begin: () -> Void) async -> Result<Void, LogStoreError> {
    await withUnsafeContinuation { continuation in
      // Resumed exactly once: here, or by `finish` out of `waiting`.
      let result: Result<Void, LogStoreError>? = state.withLock { state in
        switch state {
        case .open:
          state = .waiting([continuation])
          return nil
        case .waiting(let others):
          state = .waiting(others + [continuation])
          return nil
        case .finished(let result):
          return result
        case .abandoned:
          return .failure(.closed)
        }
      }
      if let result { continuation.resume(returning: result) }
      begin()
    }
  }

  func finish(with result: Result<Void, LogStoreError>, release: () -> Void) {
    release()
    let waiters = state.withLock { state -> [UnsafeContinuation<Result<Void, LogStoreError>, Never>] in
      defer { state = .finished(result) }
      return if case .waiting(let continuations) = state { continuations } else { [] }
    }
    for waiter in waiters { waiter.resume(returning: result) }
  }
}
