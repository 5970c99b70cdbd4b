/// Reads a store: what is durable, only that, and without waiting for the writer. A ``LogStore`` has one for its own
/// process; ``open(_:streamCacheBytes:)`` makes one beside another process's writer, or beside none.
///
/// May be used from any thread and task. Reads go to mapped memory, so they don't wait for anything but a page that has
/// to come from the disk. Damage that a read meets is thrown, with file and byte, and never served; so is a place that the
/// disk can't read (``LogStoreError/unreadable(_:)``), until it can again.
///
/// ## How reading ends
///
/// Reading ends when its task is cancelled, when the reader is closed, and when its ``LogStore`` is closed or released. All of
/// them do the same, at the next event, whether a loop has caught up with the log or is behind:
///
/// * ``EventCursor/next()`` gives nil, and ``EventCursor/waitForMore()`` and ``waitForEvents(at:endsWithTask:)`` return false. So
///   a loop that follows the log ends without an error, and ``EventCursor/offset`` tells how far it has come.
/// * Calls that visit or return events throw ``LogStoreError/cancelled`` or ``LogStoreError/closed``, since what they have until
///   then must not look whole. Other calls throw ``LogStoreError/closed`` on a closed reader, and take no notice of the task.
/// * A reader that has ended since its store was damaged, moved or removed throws that error in place of all this.
///
/// The next event is the next that would be given. A loop that takes more than a million events a second may get up to 64 more.
/// A call with `endsWithTask: false` takes no notice of the task: for what has to be finished all the same. Closing a reader
/// that is closed does nothing. A store and its ``LogStore/reader`` are one: closing either closes both. Keep the store for
/// as long as its reader is used.
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

  /// The offset after the last durable event: what the next one will get. 0 for an empty log.
  public var endOffset: UInt64 { commitPoint.end.offset }

  /// Offsets below ``endOffset`` that have no events, ascending: what ``LogStore/repair(_:to:keeping:access:progress:)`` could not save.
  /// Reading in order goes on behind each; what follows is not the next event that ever was.
  public var gaps: [Range<UInt64>] { commitPoint.segments.gaps.ranges }

  /// A place to take events from one by one, beginning with the one at an offset: see ``EventCursor``. From behind the
  /// end of the log it gives nothing until the log has grown to there.
  ///
  /// - Parameter offset: the offset of the first event.
  /// - Parameter passingOverDamage: goes on with the next sound event instead of throwing ``LogStoreError/damaged(_:)``;
  ///   ``EventCursor/takePassed()`` tells what was left out.
  /// - Parameter endsWithTask: without, also a cancelled task gets events and waits.
  @inlinable
  public func cursor(
    from offset: UInt64, passingOverDamage: Bool = false, endsWithTask: Bool = true
  ) -> EventCursor {
    EventCursor(commitPoint, from: offset, passingOverDamage: passingOverDamage, endsWithTask: endsWithTask)
  }

  /// Visits events in order from an offset to the durable end as it is now, or until `body` returns false. Returns the
  /// offset to go on with. From behind the end it visits nothing.
  ///
  /// Throws after the visit of an event whose bytes became unreadable during it: they were zeros, so what `body` has made of
  /// them is to be thrown away.
  ///
  /// An ``EventCursor`` in a loop, made for the call: to follow the log, keep one.
  ///
  /// - Parameter offset: the offset of the first event to visit.
  /// - Parameter endsWithTask: without, also a cancelled task visits all of them.
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
    // What was visited was zeros if it could not be read meanwhile: `next()` throws then, and behind the last one `check()`.
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
  /// Looks at each segment's filter from the newest back to the one where the version is.
  ///
  /// - Parameter id: the stream's id.
  /// - Parameter version: the version of the first event.
  /// - Parameter limit: the number of events after which the call returns.
  /// - Parameter skippingMissing: leave out versions that were lost in one of the log's ``gaps``, instead of throwing: the
  ///   events are then not the whole stream, and only their versions tell.
  /// - Parameter endsWithTask: without, also a cancelled task gets all of them.
  /// - Throws: ``LogStoreError/streamIncomplete(stream:missing:)`` where versions that were asked for are known to be lost;
  ///   ``LogStoreError/cancelled``, ``LogStoreError/closed``, ``LogStoreError/damaged(_:)``,
  ///   ``LogStoreError/unreadable(_:)``, ``LogStoreError/inputOutput(operation:path:code:)``.
  public func stream(
    _ id: String, from version: UInt64 = 1, limit: Int = .max, skippingMissing: Bool = false,
    endsWithTask: Bool = true
  ) throws(LogStoreError) -> [Event] {
    var events: [Event] = []
    try forEach(
      inStream: id, from: version, limit: limit, skippingMissing: skippingMissing,
      // No code of the caller's runs in between.
      ReadPace(endsWithTask: endsWithTask, isFast: true)
    ) {
      events.append($0.copy())
    }
    return events
  }

  /// As ``stream(_:from:limit:skippingMissing:endsWithTask:)`` with borrowed events.
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
    // The first event needs no look of its own.
    var beforeLook = pace.stride + 1
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
        beforeLook -= 1
        if beforeLook == 0 {
          pace.noteTime()
          if pace.ending(of: commitPoint) != nil { try commitPoint.checkReading(endsWithTask: pace.endsWithTask) }
          beforeLook = pace.stride
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
  /// that is known to have been: the next event gets a greater one.
  public func streamVersion(_ id: String) throws(LogStoreError) -> UInt64 {
    try commitPoint.check()
    return try commitPoint.segments.lastVersion(of: StreamKey(Array(id.utf8)))
  }

  /// The place of a cursor: the offset that its consumer reads next; nil if it was never committed.
  public func cursor(_ name: String) throws(LogStoreError) -> UInt64? {
    try commitPoint.check()
    return commitPoint.cursors[Array(name.utf8)]
  }

  /// All cursors, by name.
  public func cursors() throws(LogStoreError) -> [(name: String, checkpoint: UInt64)] {
    try commitPoint.check()
    return commitPoint.cursors
      .map { (name: String(decoding: $0.key, as: UTF8.self), checkpoint: $0.value) }
      .sorted { $0.name < $1.name }
  }

  /// Waits until the event at an offset is durable: true at once if it is. False when the task is cancelled or the reader is
  /// closed, also if the event is durable. Costs nothing while it waits. From a gap on it waits for the event behind it.
  ///
  /// - Parameter offset: the offset to wait for.
  /// - Parameter endsWithTask: without, also a cancelled task waits.
  public func waitForEvents(at offset: UInt64, endsWithTask: Bool = true) async throws(LogStoreError) -> Bool {
    try await commitPoint.wait(
      for: commitPoint.segments.gaps.gap(at: offset)?.upperBound ?? offset, endsWithTask: endsWithTask)
  }

  /// Ends this reader and all reading from it: see *How reading ends*. May be called from any thread, and again.
  ///
  /// On the reader of a ``LogStore`` it closes the store as ``LogStore/close()`` does, which returns when that is done.
  public func close() {
    closeStore?()
    end()
  }

  /// Ends reading alone.
  func end() {
    follower?.stop()
    commitPoint.close()
  }
}

extension LogReader {
  /// Opens a store for reading, beside its writer or without one. Changes nothing, but for one case: after a writer
  /// died, the last bytes that it wrote are written again, the same, and synced, before they are served as durable.
  ///
  /// It sees an append a moment after the writer has acknowledged it: a writer tells other readers of its end after it has
  /// answered. ``waitForEvents(at:endsWithTask:)`` waits for an event.
  ///
  /// Blocks for as long as the last segment takes to be read. A relative path is looked up once, now. When the directory is moved
  /// away, replaced or removed, the reader ends within about a second, with ``LogStoreError/moved(directory:reason:)``.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter streamCacheBytes: as ``StoreOptions/streamCacheBytes``.
  /// - Throws: ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/notAStore(directory:)``,
  ///   ``LogStoreError/locked(directory:holder:)`` while a writer takes too long to open it,
  ///   ``LogStoreError/damaged(_:)``, ``LogStoreError/unreadable(_:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``, also where no thread can be had.
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
