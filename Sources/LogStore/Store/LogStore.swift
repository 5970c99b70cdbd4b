import Synchronization

/// A durable, ordered log of events in a directory, open for writing. It is event store and change feed at once.
///
/// One process at a time, and one `LogStore` in it, may have a store open for writing; any number may read
/// (``LogReader/open(_:streamCacheBytes:)``). A `LogStore` may be used from any thread and any number of tasks at once: appends that wait
/// at the same time share one sync. Nothing it does blocks the threads that tasks run on, but for ``open(_:options:)``.
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

  /// What opening found and did.
  public var recovery: RecoveryReport { reader.recovery }

  /// The failure of a write or sync after which nothing more is acknowledged, until the store is opened anew.
  public var failure: LogStoreError? { status.failure }
  /// Groups of appends that were synced since the store was opened: fewer than appends, when many come at once.
  public var syncCount: UInt64 { status.syncCount }

  /// How long the writer has been at the appends that it took last, in milliseconds; 0 while it waits for some. Some milliseconds
  /// are usual, and some hundred for many megabytes; seconds mean a disk that does not answer. May be called from any thread.
  public var workMilliseconds: UInt64 { status.workMilliseconds }

  /// How far the log's time is ahead of this machine's clock, in microseconds; 0 if it isn't. Times on the log never go back:
  /// after the clock was set forward and back, or was wrong when the machine started, every event gets the time of the last
  /// one until the clock has come to it again. Order and durability don't depend on it. May be called from any thread.
  public var clockLeadMicroseconds: UInt64 {
    let (last, now) = (status.lastTimestamp, clock())
    return last > now ? last - now : 0
  }

  private init(
    reader: LogReader, mailbox: Mailbox<CommitRequest>, status: CommitStatus, closing: Closing, sealer: SegmentSealer,
    clock: @escaping @Sendable () -> UInt64
  ) {
    self.clock = clock
    self.reader = reader
    self.mailbox = mailbox
    self.status = status
    self.closing = closing
    self.sealer = sealer
  }

  deinit {
    abandon()
  }

  /// Lets go without `close`: what was appended becomes durable and the log is whole, but its end is not recorded, so the next
  /// opening looks for it. Reading ends.
  func abandon() {
    closing.abandon()
    mailbox.close()
    reader.end()
  }

  /// Opens a store for writing, after a crash too: then the end of the log is found by reading its last segment, an
  /// unfinished write is cut off (see ``recovery``), and damage is refused.
  ///
  /// Blocks while it reads the last segment (some 20 ms for 64 MiB), or makes the first. A relative path is looked up once, now.
  /// When the directory is moved away, replaced or removed later, that is seen before a name in it is changed, and otherwise
  /// within about a second: then ``failure`` is ``LogStoreError/moved(directory:reason:)``, and nothing more is acknowledged.
  ///
  /// A new store is made only in a directory that is empty or not there yet. What an interrupted making of one has left, as its
  /// content shows, and what a file system keeps in its directories (`lost+found`, `.nfs…`), is no hindrance.
  ///
  /// - Throws: ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/locked(directory:holder:)``, ``LogStoreError/damaged(_:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/notAStore(directory:)``,
  ///   ``LogStoreError/foreignFile(directory:name:)``,
  ///   ``LogStoreError/diskFull(operation:path:)``, ``LogStoreError/inputOutput(operation:path:code:)``, also where no thread
  ///   can be had. Nothing is left open then.
  public static func open(_ directory: String, options: Options = Options()) throws(LogStoreError) -> LogStore {
    try open(directory, options: options, disk: RealDisk(access: options.access))
  }

  static func open(_ directory: String, options: Options, disk: any Disk) throws(LogStoreError) -> LogStore {
    let options = try options.checked()
    let directory = try disk.absolutePath(directory)
    let opened = try Recovery(directory: directory, options: options, disk: disk).open()
    let commitPoint = opened.commitPoint
    let mailbox = Mailbox<CommitRequest>(disk.scheduler)
    let reader = LogReader(
      commitPoint: commitPoint, follower: nil, recovery: opened.recovery, closeStore: { mailbox.close() })
    let status = CommitStatus(timestamp: opened.end.timestamp)
    let closing = Closing()
    let start = try CommitStart(opened, directory: directory, options: options)
    do throws(LogStoreError) {
      // The thread is told only when the store is open, so that a reader elsewhere never waits for nothing.
      try disk.onThread("log commit") {
        start.run(mailbox, status: status, closing: closing)
      }
    } catch {
      start.giveUp()
      throw error
    }
    return LogStore(
      reader: reader, mailbox: mailbox, status: status, closing: closing, sealer: start.sealer, clock: { disk.now() })
  }

  /// Appends atomically, and returns once all of it is durable: its bytes, its file's size and its file's name.
  ///
  /// An append whose events all have ids may be sent again, whatever became of the first call: the answer is the first one's
  /// places, with ``Appended/isRepeat``, even though its conditions are no longer met. An id names one event of the store. With
  /// another stream, type or payload, at another version than a condition names, or beside other events than before, it is
  /// refused as ``LogStoreError/eventIDReused(_:)``, which comes before a conflict. Metadata may differ. What a repeat says of
  /// cursors is not looked at: they were committed with the first.
  ///
  /// A refused append has written nothing. An append takes no notice of its task: what has its place can't be taken back, and
  /// only the answer tells that it is durable, so a cancelled task still appends, waits and gets it. With `endsWithTask` a
  /// cancelled task is refused before anything is placed, and a wait ends with ``LogStoreError/cancelled``: the append then may
  /// become durable all the same, and with event ids can be sent again.
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

  /// For imports: appends atomically, and returns once it has its place in the log, but *before it is written, let alone
  /// durable*. A crash undoes it, and a failed write is told by ``flush(endsWithTask:)`` and every later call. Nobody reads it before it
  /// is durable: ``flush(endsWithTask:)`` makes everything before it so, and any ``append(_:endsWithTask:)`` does. Takes no notice
  /// of its task.
  @discardableResult
  public func appendBuffered(_ append: Append) async throws(LogStoreError) -> Appended {
    try await send(.appendBuffered(try EncodedAppend(append)))
  }

  /// Returns once everything that was appended before is durable. Takes notice of its task as ``append(_:endsWithTask:)`` does.
  public func flush(endsWithTask: Bool = false) async throws(LogStoreError) {
    _ = endsWithTask ? try await sendUntilCancelled(.flush) : try await send(.flush)
  }

  /// Returns once the index of everything in finished segments is on disk, and its files are merged as far as they should
  /// be: after an import, say. Nothing depends on it; what is appended meanwhile is waited for too. Cancelling the task ends the
  /// wait, and not the work.
  ///
  /// - Throws: what keeps an index file from being written, such as ``LogStoreError/diskFull(operation:path:)``;
  ///   ``LogStoreError/closed``, ``LogStoreError/cancelled``.
  public func waitUntilIndexed() async throws(LogStoreError) {
    try await sealer.waitUntilDone()
  }

  /// Finishes what was asked for, makes it durable, and records the end of the log, so that from now on anything that
  /// is missing there counts as damage. Appends from now on throw ``LogStoreError/closed``; reading ends as ``LogReader``
  /// describes, before this returns.
  ///
  /// May be called again, and while another call closes the store: each returns when the store is closed, and throws the
  /// same. Cancelling the task does not end it. A store that is released without it lets go in the background; the next
  /// opening then has to look for the end of the log, and nothing acknowledged is missing.
  ///
  /// - Throws: ``LogStoreError/stopped(cause:)`` after a failure: what was acknowledged is safe, but the end could not be
  ///   recorded.
  public func close() async throws(LogStoreError) {
    let result = await closing.wait { mailbox.close() }
    reader.end()
    try result.get()
  }

  /// As ``send(_:)`` in a task of its own, which goes on when this one does not wait any longer.
  private func sendUntilCancelled(_ kind: CommitRequest.Kind) async throws(LogStoreError) -> Appended {
    let wait = EndableWait<Appended>()
    return try await wait.wait {
      Task {
        let answer: CommitRequest.Answer
        do throws(LogStoreError) {
          answer = .success(try await self.send(kind))
        } catch {
          answer = .failure(error)
        }
        wait.end(with: answer)
      }
    }
  }

  private func send(_ kind: CommitRequest.Kind) async throws(LogStoreError) -> Appended {
    let answer = await withUnsafeContinuation { (continuation: UnsafeContinuation<CommitRequest.Answer, Never>) in
      if !mailbox.send(CommitRequest(kind: kind, continuation: continuation)) {
        continuation.resume(returning: .failure(.closed))
      }
    }
    return try answer.get()
  }
}
