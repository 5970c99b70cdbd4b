/// Reads a store: only what is durable, and without waiting for the writer. A ``LogStore`` has a reader for its own
/// process. ``open(_:streamCacheBytes:)`` opens one beside the writer of another process, or without a writer.
///
/// Can be used from any thread and task. Reads go to mapped memory, so they wait for nothing but a page that has to come
/// from the disk. A read that meets damage throws it, with file and byte, and never returns it. The same holds for bytes
/// that the disk can't read (``LogStoreError/unreadable(_:)``), until it can read them again.
///
/// ## How reading ends
///
/// Reading ends when its task is cancelled, when the reader is closed, and when its ``LogStore`` is closed or released. All
/// three do the same, at the next event, whether a loop has caught up with the log or not:
///
/// * ``EventCursor/next()`` returns nil, and ``EventCursor/waitForMore()`` and ``waitForEvents(at:endsWithTask:)`` return
///   false. So a loop that follows the log ends without an error, and ``EventCursor/offset`` says how far it got.
/// * Calls that visit or return events throw ``LogStoreError/cancelled`` or ``LogStoreError/closed``, since an incomplete
///   result must not look complete. Other calls throw ``LogStoreError/closed`` on a closed reader, and ignore the task's
///   cancellation.
/// * A reader that ended because its store was damaged, moved or removed throws that error instead.
///
/// The next event is the next one to be returned. A loop that takes more than a million events a second may get up to 64
/// more. A call with `endsWithTask: false` ignores the task's cancellation; use it for work that must be finished. Closing
/// a closed reader does nothing. A store and its ``LogStore/reader`` belong together: closing either closes both. Keep the
/// store for as long as its reader is used.
public final class LogReader: Sendable {
  /// Events of a stream that are looked up at once.
  private static let streamPage = 1024

  @usableFromInline let commitPoint: CommitPoint
  let follower: Follower?
  /// Closes the store that the reader belongs to.
  private let closeStore: (@Sendable () -> Void)?
  /// What was found when the store was opened.
  public let recovery: RecoveryReport

  init(
    commitPoint: CommitPoint, follower: Follower?, recovery: RecoveryReport, closeStore: (@Sendable () -> Void)? = nil
  ) {
    self.commitPoint = commitPoint
    self.closeStore = closeStore
    self.follower = follower
    self.recovery = recovery
  }

  deinit {
    follower?.stop()
  }

  /// The offset after the last durable event, which the next event will get. 0 for an empty log.
  public var endOffset: UInt64 { commitPoint.end.offset }

  /// Offsets below ``endOffset`` that have no events, ascending: those that
  /// ``LogStore/repair(_:to:keeping:access:progress:)`` could not save. Reading in order continues behind each gap; the
  /// event there is not the one that originally came next.
  public var gaps: [Range<UInt64>] { commitPoint.segments.gaps.ranges }

  /// A cursor that returns events one by one, beginning with the one at an offset: see ``EventCursor``. Behind the end of
  /// the log it returns nothing until the log has grown that far.
  ///
  /// - Parameter offset: the offset of the first event.
  /// - Parameter passingOverDamage: continue with the next sound event instead of throwing ``LogStoreError/damaged(_:)``;
  ///   ``EventCursor/takePassed()`` returns what was left out.
  /// - Parameter endsWithTask: if false, a cancelled task still gets events and waits.
  @inlinable
  public func cursor(
    from offset: UInt64, passingOverDamage: Bool = false, endsWithTask: Bool = true
  ) -> EventCursor {
    EventCursor(commitPoint, from: offset, passingOverDamage: passingOverDamage, endsWithTask: endsWithTask)
  }

  /// Visits events in order from an offset to the present durable end, or until `body` returns false. Returns the offset to
  /// continue with. Behind the end it visits nothing.
  ///
  /// Throws after the visit of an event whose bytes became unreadable during the visit: they were zeros, so discard what
  /// `body` made of them.
  ///
  /// Creates an ``EventCursor`` for the call. To follow the log, keep a cursor.
  ///
  /// - Parameter offset: the offset of the first event to visit.
  /// - Parameter endsWithTask: if false, a cancelled task still visits all of them.
  /// - Parameter body: visits one event; false ends the visit.
  /// - Throws: ``LogStoreError/cancelled``, ``LogStoreError/closed``, and what ``EventCursor/next()`` throws.
  @inlinable
  @discardableResult
  public func forEach(
    from offset: UInt64, endsWithTask: Bool = true, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try commitPoint.checkReading(endsWithTask: endsWithTask)
    var cursor = cursor(from: offset, endsWithTask: endsWithTask)
    let end = endOffset
    // Bytes that became unreadable were zeros during the visit: `next()` throws then, and `check()` behind the last event.
    while cursor.offset < end, let event = try cursor.next() {
      if !body(event) { break }
    }
    try cursor.check()
    try cursor.checkEnding()
    return cursor.offset
  }

  /// Copies of at most `limit` events from an offset on; empty at the end of the log. Throws as
  /// ``forEach(from:endsWithTask:_:)`` does.
  public func events(from offset: UInt64, limit: Int, endsWithTask: Bool = true) throws(LogStoreError) -> [Event] {
    guard limit > 0 else { return [] }
    var events: [Event] = []
    try forEach(from: offset, endsWithTask: endsWithTask) { event in
      events.append(event.copy())
      return events.count < limit
    }
    return events
  }

  /// Copies of a stream's events in order, from a version on; empty if there are none.
  ///
  /// Checks each segment's filter from the newest back to the one that has the version.
  ///
  /// - Parameter id: the stream's id.
  /// - Parameter version: the version of the first event.
  /// - Parameter limit: the number of events after which the call returns.
  /// - Parameter skippingMissing: leave out versions that were lost in one of the log's ``gaps``, instead of throwing. The
  ///   events are then not the whole stream, and only their versions show it.
  /// - Parameter endsWithTask: if false, a cancelled task still gets all of them.
  /// - Throws: ``LogStoreError/streamIncomplete(stream:missing:)`` if requested versions are known to be lost;
  ///   ``LogStoreError/cancelled``, ``LogStoreError/closed``, ``LogStoreError/damaged(_:)``,
  ///   ``LogStoreError/unreadable(_:)``, ``LogStoreError/inputOutput(operation:path:code:)``.
  public func stream(
    _ id: String, from version: UInt64 = 1, limit: Int = .max, skippingMissing: Bool = false,
    endsWithTask: Bool = true
  ) throws(LogStoreError) -> [Event] {
    var events: [Event] = []
    try forEach(
      inStream: id, from: version, limit: limit, skippingMissing: skippingMissing,
      // No code of the caller runs in between.
      ReadPace(endsWithTask: endsWithTask, isFast: true)
    ) {
      events.append($0.copy())
    }
    return events
  }

  /// As ``stream(_:from:limit:skippingMissing:endsWithTask:)``, with borrowed events.
  public func forEach(
    inStream id: String, from version: UInt64 = 1, limit: Int = .max, skippingMissing: Bool = false,
    endsWithTask: Bool = true, _ body: (borrowing EventView) -> Void
  ) throws(LogStoreError) {
    try forEach(
      inStream: id, from: version, limit: limit, skippingMissing: skippingMissing,
      ReadPace(endsWithTask: endsWithTask), body)
  }

  private func forEach(
    inStream id: String, from version: UInt64, limit: Int, skippingMissing: Bool, _ pace: ReadPace,
    _ body: (borrowing EventView) -> Void
  ) throws(LogStoreError) {
    try commitPoint.checkReading(endsWithTask: pace.endsWithTask)
    var pace = pace
    // The first event needs no check of its own.
    var untilCheck = pace.stride + 1
    let stream = StreamKey(Array(id.utf8))
    var next = max(version, 1)
    var left = limit
    // In pages, so that memory doesn't grow with the stream.
    while left > 0 {
      let page = min(left, Self.streamPage)
      var count = 0
      try commitPoint.segments.forEachEvent(
        of: stream, from: next, limit: page, skipsMissing: skippingMissing
      ) { event throws(LogStoreError) in
        untilCheck -= 1
        if untilCheck == 0 {
          pace.noteTime()
          if pace.ending(of: commitPoint) != nil { try commitPoint.checkReading(endsWithTask: pace.endsWithTask) }
          untilCheck = pace.stride
        }
        body(
          EventView(
            event.record, baseOffset: event.baseOffset, storeIDFirst: commitPoint.segments.storeID.first,
            timestampMicroseconds: event.timestampMicroseconds))
        count += 1
        next = event.record.version + 1
      }
      if count < page { return }
      left -= count
    }
  }

  /// A stream's last version; 0 if there is no such stream. If the stream lost its last events in a gap, the last version
  /// that is known to have existed: the next event gets a greater one.
  public func streamVersion(_ id: String) throws(LogStoreError) -> UInt64 {
    try commitPoint.check()
    return try commitPoint.segments.lastVersion(of: StreamKey(Array(id.utf8)))
  }

  /// A cursor's checkpoint: the offset that its consumer reads next; nil if it was never committed.
  public func cursor(_ name: String) throws(LogStoreError) -> UInt64? {
    try commitPoint.check()
    return commitPoint.cursors[Array(name.utf8)]
  }

  /// All cursors, sorted by name.
  public func cursors() throws(LogStoreError) -> [(name: String, checkpoint: UInt64)] {
    try commitPoint.check()
    return commitPoint.cursors
      .map { (name: String(decoding: $0.key, as: UTF8.self), checkpoint: $0.value) }
      .sorted { $0.name < $1.name }
  }

  /// Waits until the event at an offset is durable; returns true at once if it is. Returns false when the task is cancelled
  /// or the reader is closed, even if the event is durable. Costs nothing while it waits. For an offset in a gap it waits
  /// for the event behind the gap.
  ///
  /// - Parameter offset: the offset to wait for.
  /// - Parameter endsWithTask: if false, a cancelled task still waits.
  public func waitForEvents(at offset: UInt64, endsWithTask: Bool = true) async throws(LogStoreError) -> Bool {
    try await commitPoint.wait(
      for: commitPoint.segments.gaps.gap(at: offset)?.upperBound ?? offset, endsWithTask: endsWithTask)
  }

  /// Ends this reader and all reading from it: see *How reading ends*. Can be called from any thread, and again.
  ///
  /// On the reader of a ``LogStore``, it closes the store as ``LogStore/close()`` does; that call returns when the store is
  /// closed.
  public func close() {
    closeStore?()
    end()
  }

  /// Ends reading only.
  func end() {
    follower?.stop()
    commitPoint.close()
  }
}

extension LogReader {
  /// Opens a store for reading, with or without a running writer. Changes nothing, with one exception: after a writer died,
  /// the last bytes that it wrote are written again unchanged and synced, before they are served as durable.
  ///
  /// The reader sees an append a moment after the writer has acknowledged it: a writer notifies other processes after it
  /// has responded to its callers. ``waitForEvents(at:endsWithTask:)`` waits for an event.
  ///
  /// Blocks while the last segment is read. A relative path is resolved once, now. When the directory is moved away,
  /// replaced or removed, the reader ends within about a second, with ``LogStoreError/moved(directory:reason:)``.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter streamCacheBytes: as ``StoreOptions/streamCacheBytes``.
  /// - Throws: ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/notAStore(directory:)``,
  ///   ``LogStoreError/locked(directory:holder:)`` while a writer takes too long to open the store,
  ///   ``LogStoreError/damaged(_:)``, ``LogStoreError/unreadable(_:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/inputOutput(operation:path:code:)``,
  ///   also if no thread can be created.
  public static func open(
    _ directory: String, streamCacheBytes: Int = LogStore.Options().streamCacheBytes
  ) throws(LogStoreError) -> LogReader {
    try StreamCache.check(byteCount: streamCacheBytes)
    let disk = RealDisk()
    let (follower, commitPoint, recovery) = try Follower.open(
      try disk.absolutePath(directory), disk: disk, streamCacheBytes: streamCacheBytes)
    return LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
  }
}
