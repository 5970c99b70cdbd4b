import Synchronization

/// A durable, ordered log of events in a directory, open for writing. It is event store and change feed at once.
///
/// Only one process at a time, and one `LogStore` in it, may have a store open for writing; any number may read
/// (``LogReader/open(_:streamCacheBytes:)``). A `LogStore` can be used from any thread and any number of tasks at once:
/// appends that wait at the same time share one sync. Nothing except ``open(_:options:)`` blocks the threads that tasks run
/// on.
///
/// ```swift
/// let store = try LogStore.open("orders.log")
/// let done = try await store.append(
///   Append(NewEvent(stream: "order-1", type: "Placed", payload: Array("{}".utf8)), expecting: .noStream))
/// for event in try store.reader.events(from: 0, limit: 100) { print(event.offset, event.stream, event.version) }
/// try await store.close()
/// ```
public final class LogStore: Sendable {
  /// The version of this package, the library and the programs, as in CHANGELOG.md.
  public static let version = "0.1.0"

  /// What ``open(_:options:)`` takes.
  public typealias Options = StoreOptions

  /// Reads this store. It sees an append as soon as it is acknowledged.
  public let reader: LogReader
  private let mailbox: Mailbox<CommitRequest>
  private let status: CommitStatus
  private let closing: Closing
  private let sealer: SegmentSealer
  /// Microseconds since 1970-01-01 UTC.
  private let clock: @Sendable () -> UInt64
  private let openingMicroseconds: UInt64

  /// What opening found and did.
  public var recovery: RecoveryReport { reader.recovery }

  /// The failure of a write or sync after which nothing more is acknowledged, until the store is opened again.
  public var failure: LogStoreError? { status.failure }
  /// Groups of appends that were synced since the store was opened: fewer than appends, when many come at once.
  public var syncCount: UInt64 { status.syncCount }

  /// How long the writer has worked on its current appends, in milliseconds; 0 while it waits for some. A few milliseconds
  /// are usual, and a few hundred for many megabytes. Seconds mean a disk that does not respond. Can be called from any
  /// thread.
  public var workMilliseconds: UInt64 { status.workMilliseconds }

  /// How far the log's time is ahead of this machine's clock, in microseconds; 0 if it isn't. Times in the log never go
  /// back: after the clock was set forward and back, or was wrong when the machine started, every event gets the time of
  /// the last one until the clock has caught up. Order and durability don't depend on it. Can be called from any thread.
  public var clockLeadMicroseconds: UInt64 {
    let (last, now) = (status.lastTimestamp, clock())
    return last > now ? last - now : 0
  }

  /// What the store has done since it was opened, for monitoring. Reads memory only, and costs appends nothing; takes
  /// microseconds, more with hundreds of index files. Can be called from any thread, also after ``close()``.
  public var activity: StoreActivity {
    let segments = reader.commitPoint.segments
    var activity = status.counters.activity(
      openingMicroseconds: openingMicroseconds, endOffset: reader.endOffset, snapshot: segments.present)
    if let cache = segments.cache {
      (activity.cacheHits, activity.cacheMisses) = cache.findCounts
      activity.cacheBytes = cache.byteCount
    }
    return activity
  }

  /// The last event's time in microseconds since 1970; 0 if there is none.
  package var lastTimestampMicroseconds: UInt64 { status.lastTimestamp }

  private init(
    reader: LogReader, mailbox: Mailbox<CommitRequest>, status: CommitStatus, closing: Closing, sealer: SegmentSealer,
    clock: @escaping @Sendable () -> UInt64, openingMicroseconds: UInt64
  ) {
    self.clock = clock
    self.openingMicroseconds = openingMicroseconds
    self.reader = reader
    self.mailbox = mailbox
    self.status = status
    self.closing = closing
    self.sealer = sealer
  }

  deinit {
    abandon()
  }

  /// Releases the store without `close`: what was appended becomes durable and the log is complete, but its end is not
  /// recorded, so the next opening searches for it. Reading ends.
  func abandon() {
    closing.abandon()
    mailbox.close()
    reader.end()
  }

  /// Opens a store for writing, also after a crash: then the end of the log is found by reading its last segment, an
  /// unfinished write is cut off (see ``recovery``), and damage is refused.
  ///
  /// Blocks while it reads the last segment (some 20 ms for 64 MiB), or creates the first. A relative path is resolved
  /// once, now. If the directory is moved away, replaced or removed later, this is detected before a name in it is changed,
  /// and otherwise within about a second: then ``failure`` is ``LogStoreError/moved(directory:reason:)``, and nothing more
  /// is acknowledged.
  ///
  /// A new store is created only in a directory that is empty or does not exist yet. Two things are allowed in it:
  /// leftovers of an interrupted creation, recognised by their content, and what a file system keeps in its directories
  /// (`lost+found`, `.nfs…`).
  ///
  /// - Throws: ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/locked(directory:holder:)``,
  ///   ``LogStoreError/damaged(_:)``, ``LogStoreError/unsupportedFormat(file:version:supported:)``,
  ///   ``LogStoreError/notAStore(directory:)``, ``LogStoreError/foreignFile(directory:name:)``,
  ///   ``LogStoreError/diskFull(operation:path:)``, ``LogStoreError/inputOutput(operation:path:code:)``, also if no thread
  ///   can be created. After an error nothing stays open.
  public static func open(_ directory: String, options: Options = Options()) throws(LogStoreError) -> LogStore {
    try open(directory, options: options, disk: RealDisk(access: options.access))
  }

  static func open(_ directory: String, options: Options, disk: any Disk) throws(LogStoreError) -> LogStore {
    let options = try options.checked()
    let directory = try disk.absolutePath(directory)
    let openingStart = disk.monotonicMicroseconds()
    let opened = try Recovery(directory: directory, options: options, disk: disk).open()
    let commitPoint = opened.commitPoint
    let mailbox = Mailbox<CommitRequest>(disk.scheduler)
    let reader = LogReader(
      commitPoint: commitPoint, follower: nil, recovery: opened.recovery, closeStore: { mailbox.close() })
    let status = CommitStatus(timestamp: opened.end.timestamp)
    let closing = Closing()
    let start = try CommitStart(opened, directory: directory, options: options)
    do throws(LogStoreError) {
      // The thread publishes only once the store is open, so that a reader elsewhere never waits in vain.
      try disk.onThread("log commit") {
        start.run(mailbox, status: status, closing: closing)
      }
    } catch {
      start.abandon()
      throw error
    }
    return LogStore(
      reader: reader, mailbox: mailbox, status: status, closing: closing, sealer: start.sealer, clock: { disk.now() },
      openingMicroseconds: disk.monotonicMicroseconds() &- openingStart)
  }

  /// Appends atomically, and returns once all of it is durable: its bytes, its file's size and its file's name.
  ///
  /// An append whose events all have ids can be sent again, whatever became of the first call. The result then has the
  /// original's offsets and versions, with ``Appended/isRepeat``, even if its conditions no longer hold. An id names one
  /// event of the store. With another stream, type or payload, at another version than a condition names, or beside other
  /// events than before, the append is refused as ``LogStoreError/eventIDReused(_:)``, which comes before a conflict.
  /// Metadata may differ. The cursors of a repeat are ignored: they were committed with the original.
  ///
  /// A refused append has written nothing. An append ignores its task's cancellation: an append that has its offsets can't
  /// be taken back, and only the result says that it is durable, so a cancelled task still appends, waits and gets the
  /// result. With `endsWithTask`, a cancelled task is refused before offsets are assigned, and a wait ends with
  /// ``LogStoreError/cancelled``: the append may still become durable, and with event ids it can be sent again.
  ///
  /// - Throws: ``LogStoreError/conflict(stream:expected:actual:)``, ``LogStoreError/eventIDReused(_:)``,
  ///   ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/limitExceeded(what:actual:limit:)``,
  ///   ``LogStoreError/diskFull(operation:path:)``, ``LogStoreError/inputOutput(operation:path:code:)``,
  ///   ``LogStoreError/cursorBehind(name:checkpoint:present:)``, ``LogStoreError/stopped(cause:)``, ``LogStoreError/moved(directory:reason:)``,
  ///   ``LogStoreError/closed``, and ``LogStoreError/cancelled`` only with `endsWithTask`.
  @discardableResult
  public func append(_ append: Append, endsWithTask: Bool = false) async throws(LogStoreError) -> Appended {
    let append = try EncodedAppend(append)
    return endsWithTask ? try await sendUntilCancelled(.append(append)) : try await send(.append(append))
  }

  /// For imports: appends atomically, and returns once the append has its offsets, but *before it is written, let alone
  /// durable*. A crash undoes it; ``flush(endsWithTask:)`` and every later call report a failed write. Nobody reads it
  /// before it is durable. ``flush(endsWithTask:)`` makes everything before it durable, and so does any
  /// ``append(_:endsWithTask:)``. Ignores its task's cancellation.
  @discardableResult
  public func appendBuffered(_ append: Append) async throws(LogStoreError) -> Appended {
    try await send(.appendBuffered(try EncodedAppend(append)))
  }

  /// Returns once everything that was appended before is durable. Treats its task's cancellation as
  /// ``append(_:endsWithTask:)`` does.
  public func flush(endsWithTask: Bool = false) async throws(LogStoreError) {
    _ = endsWithTask ? try await sendUntilCancelled(.flush) : try await send(.flush)
  }

  /// Returns once the index of everything in finished segments is on disk and its files are merged as far as they should
  /// be: for example after an import. Nothing depends on it. It also waits for what is appended meanwhile. Cancelling the
  /// task ends the wait, not the work.
  ///
  /// - Throws: what prevents an index file from being written, such as ``LogStoreError/diskFull(operation:path:)``;
  ///   ``LogStoreError/closed``, ``LogStoreError/cancelled``.
  public func waitUntilIndexed() async throws(LogStoreError) {
    try await sealer.waitUntilDone()
  }

  /// Finishes all pending requests, makes everything durable, and records the end of the log, so that from now on anything
  /// that is missing there counts as damage. Later appends throw ``LogStoreError/closed``. Reading ends as ``LogReader``
  /// describes, before this returns.
  ///
  /// Can be called again, and while another call closes the store: each returns when the store is closed, and throws the
  /// same. Cancelling the task does not end it. A store that is released without it closes in the background; the next
  /// opening then has to search for the end of the log, and nothing acknowledged is missing.
  ///
  /// - Throws: ``LogStoreError/stopped(cause:)`` after a failure: what was acknowledged is safe, but the end could not be
  ///   recorded.
  public func close() async throws(LogStoreError) {
    let result = await closing.wait { mailbox.close() }
    reader.end()
    try result.get()
  }

  /// As ``send(_:)``, in a task of its own that continues when this one no longer waits.
  private func sendUntilCancelled(_ kind: CommitRequest.Kind) async throws(LogStoreError) -> Appended {
    let wait = EndableWait<Appended>()
    return try await wait.wait {
      Task {
        let response: CommitRequest.Response
        do throws(LogStoreError) {
          response = .success(try await self.send(kind))
        } catch {
          response = .failure(error)
        }
        wait.end(with: response)
      }
    }
  }

  private func send(_ kind: CommitRequest.Kind) async throws(LogStoreError) -> Appended {
    let response = await withUnsafeContinuation { (continuation: UnsafeContinuation<CommitRequest.Response, Never>) in
      if !mailbox.send(CommitRequest(kind: kind, continuation: continuation)) {
        continuation.resume(returning: .failure(.closed))
      }
    }
    return try response.get()
  }
}
