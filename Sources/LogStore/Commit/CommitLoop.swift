/// The one thread that owns the end of the log. It takes all waiting requests, checks conditions, assigns offsets and
/// versions, writes one frame, syncs once, publishes and responds. The next group gathers meanwhile.
///
/// No response rests on a state that a crash could undo. Every response of a group, including a refusal, is sent after the
/// group's sync, and a request that may repeat one of the same group waits for the next group. Only a buffered append gets
/// its response at once, so that its caller can make the next one while this one is written.
struct CommitLoop: ~Copyable {
  /// A group is written when it has this many bytes, even if more requests wait.
  static let groupByteCount = 4 << 20

  /// From this many appends in two consecutive groups, it is worth waiting for more to join.
  private static let siblingCount = 8
  /// From this many, it is worth waiting twice as long.
  private static let manySiblingsCount = 32
  /// Requests with more bytes than this take so long to encode that no response should wait for it.
  private static let dueByteCount = 128 << 10

  private static let lockCheckMicroseconds: UInt64 = 100_000
  /// How often the lock is checked while nothing is appended.
  private static let idleLockCheckMilliseconds = 1000

  private let disk: any Disk
  private let gatherMilliseconds: UInt32
  private let dueCount: Int
  let commitPoint: CommitPoint
  private var tail: TailFile
  private let status: CommitStatus
  var writer: LogWriter

  /// The streams of the append being decided, including the group being built.
  var streams: [StreamTail] = []
  private var responses: [(UnsafeContinuation<CommitRequest.Response, Never>, CommitRequest.Response)] = []
  /// Responses that may be sent: while the disk writes the next group, if one waits already.
  private var due: [(UnsafeContinuation<CommitRequest.Response, Never>, CommitRequest.Response)] = []
  /// A request of the group waits for durability.
  var needsSync = false
  /// Appends that the next sync makes durable, or finds durable already.
  private var appendsToSync = 0
  var readAhead = GroupReadAhead()
  /// When the lock and the segment's file were last checked; nil: check next time.
  private var lastLockCheck: UInt64?

  init(
    disk: any Disk, options: StoreOptions, commitPoint: CommitPoint, tail: consuming TailFile, status: CommitStatus,
    writer: consuming LogWriter
  ) {
    self.disk = disk
    gatherMilliseconds = options.gatherMilliseconds
    dueCount = options.dueCount
    self.commitPoint = commitPoint
    self.tail = tail
    self.status = status
    self.writer = writer
  }

  /// Publishes the durable end to other processes.
  mutating func announce(_ state: TailNotice.State = .open) throws(LogStoreError) {
    try tail.write(writer.durableEnd, segment: writer.index.segment.headerChecksum, state)
  }

  /// Runs until the mailbox is closed and empty, then makes everything durable. Returns the end of the log and the checksum
  /// of its last frame; nil after a failure.
  mutating func run(_ mailbox: Mailbox<CommitRequest>) -> (end: DurableEnd, chain: UInt32)? {
    var requests: [CommitRequest] = []
    var lastCount = 0
    while !requests.isEmpty || receive(mailbox, into: &requests) {
      status.note(isWorking: true)
      let siblings = requests.count + lastCount
      if gatherMilliseconds > 0, siblings >= Self.siblingCount {
        disk.sleep(milliseconds: siblings < Self.manySiblingsCount ? gatherMilliseconds : 2 * gatherMilliseconds)
        // If the mailbox is closed, the next call returns that.
        _ = mailbox.receiveWaiting(into: &requests)
      }
      lastCount = requests.count
      if readAhead.isOn { sendDue() }
      readAhead.fetch(for: requests, writer, commitPoint.segments)
      var done = 0
      while done < requests.count {
        done = group(requests, from: done)
        commit()
      }
      requests.removeAll(keepingCapacity: true)
      if due.isEmpty { continue }
      // If the mailbox is closed, the next call returns that.
      _ = mailbox.receiveWaiting(into: &requests)
      if requests.count < (dueCount + 1) / 2 || requests.reduce(0, { $0 + $1.byteCount }) > Self.dueByteCount {
        sendDue()
      }
    }
    needsSync = true
    status.note(isWorking: true)
    // Check the lock whatever the time: nothing checks it after this.
    lastLockCheck = nil
    commit()
    sendDue()
    status.note(isWorking: false)
    return status.failure == nil ? (writer.durableEnd, writer.next.chain) : nil
  }

  /// Waits for requests, and checks meanwhile that the directory is still there. Returns false at the end.
  private mutating func receive(_ mailbox: Mailbox<CommitRequest>, into requests: inout [CommitRequest]) -> Bool {
    while status.failure == nil {
      status.note(isWorking: false)
      if let isOpen = mailbox.receive(into: &requests, milliseconds: Self.idleLockCheckMilliseconds) { return isOpen }
      status.note(isWorking: true)
      do throws(LogStoreError) {
        try checkLock()
      } catch {
        fail(error)
      }
    }
    status.note(isWorking: false)
    return mailbox.receive(into: &requests)
  }

  /// Nothing more is acknowledged. If nothing more can come either, waiting readers get the error.
  private func fail(_ error: LogStoreError) {
    status.fail(error)
    switch error {
    case .moved, .segmentLost: commitPoint.endWaits(error)
    default: break
    }
  }

  // MARK: - One group

  /// Takes requests into the group. Returns the index of the first one that has to wait for the next group.
  private mutating func group(_ requests: [CommitRequest], from start: Int) -> Int {
    for index in start..<requests.count {
      let request = requests[index]
      if let failure = status.failure {
        respond(to: request, .failure(.stopped(cause: failure.description)))
        continue
      }
      switch request.kind {
      case .flush:
        needsSync = true
        let end = writer.nextOffset
        respond(to: request, .success(Appended(offsets: end..<end, versions: [], isRepeat: false)))
      case .append(let append):
        needsSync = true
        if !take(append, of: request) { return index }
      case .appendBuffered(let append):
        if !take(append, of: request) { return index }
      }
    }
    return requests.count
  }

  /// Takes an append into the group, or refuses it. Returns false if it has to wait for the next group.
  private mutating func take(_ append: EncodedAppend, of request: CommitRequest) -> Bool {
    if !writer.isFrameEmpty, writer.frameByteCount + append.recordByteCount > Self.groupByteCount { return false }
    switch decide(append) {
    case .dependsOnGroup: return false
    case .refuse(let error):
      // The refusal may rest on events of this group. A response before they are durable would be undone by a crash.
      needsSync = true
      status.counters.countRefusal()
      respond(to: request, .failure(error))
    case .repeated(let appended):
      // The original append may have been buffered.
      needsSync = true
      respond(to: request, .success(appended))
    case .accept:
      if !writer.fits(append.recordByteCount) {
        if !writer.isFrameEmpty || !writer.isSynced {
          needsSync = true
          return false
        }
        if let failure = beginSegment(for: append.recordByteCount) {
          respond(to: request, .failure(failure))
          return true
        }
      }
      let first = writer.nextOffset
      let appended = Appended(
        offsets: first..<first + UInt64(append.eventCount), versions: assignVersions(to: append), isRepeat: false)
      // Respond before the remaining work: nothing can refuse the append any more.
      if case .appendBuffered = request.kind {
        request.continuation.resume(returning: .success(appended))
      } else {
        respond(to: request, .success(appended))
      }
      add(append, appended.versions)
      appendsToSync += 1
      status.counters.countAppend()
    }
    return true
  }

  private mutating func respond(to request: CommitRequest, _ response: CommitRequest.Response) {
    responses.append((request.continuation, response))
  }

  private mutating func beginSegment(for byteCount: Int) -> LogStoreError? {
    sendDue()
    do throws(BeginFailure) {
      try writer.beginSegment(for: byteCount)
      // No stream has an event in the new segment yet.
      for index in streams.indices { streams[index].head = nil }
      return nil
    } catch {
      switch error {
      case .unchanged(let cause):
        return cause
      case .broken(let cause):
        fail(cause)
        return cause
      }
    }
  }

  /// Assigns the versions of the append's events, which continue its streams.
  private mutating func assignVersions(to append: EncodedAppend) -> [UInt64] {
    [UInt64](unsafeUninitializedCapacity: append.eventCount) { versions, count in
      for event in 0..<append.eventCount {
        let stream = append.stream(of: event)
        streams[stream].version += 1
        versions[event] = streams[stream].version
      }
      count = append.eventCount
    }
  }

  private mutating func add(_ append: EncodedAppend, _ versions: [UInt64]) {
    if append.eventCount > 0 { writer.add(events: append, versions: versions, &streams) }
    guard !append.cursors.isEmpty else { return }
    append.bytes.withUnsafeBytes { bytes in
      for cursor in append.cursors {
        writer.add(
          cursor: bytes.part(cursor.start, cursor.byteCount), name: cursor.name, checkpoint: cursor.checkpoint,
          isReset: cursor.isReset)
      }
    }
  }

  /// Writes the group, syncs it if a request waits for that, publishes and responds. Or leaves many responses due until the
  /// disk writes the next group.
  private mutating func commit() {
    let frameByteCount = writer.isFrameEmpty ? 0 : writer.frameByteCount
    if status.failure == nil {
      do throws(LogStoreError) {
        try writeFrame()
        if needsSync {
          let isBegun = !due.isEmpty
          if isBegun {
            writer.beginSync()
            sendDue()
          }
          try sync(isBegun: isBegun)
          try checkLock()
          status.countSync()
          status.note(timestamp: writer.lastTimestamp)
          commitPoint.publish(writer.durableEnd, cursors: writer.cursors)
        } else {
          try checkLock()
        }
      } catch {
        // What is on disk is unknown, and a second try would not tell.
        fail(error)
        for index in responses.indices { responses[index].1 = .failure(error) }
      }
    }
    sendDue()
    swap(&responses, &due)
    // A writer that gathers has better work for the processor than polling.
    let staysDue = status.failure == nil && gatherMilliseconds == 0 && due.count >= dueCount
    if !staysDue { sendDue() }
    // Other processes are notified after the callers in this process.
    if status.failure == nil, needsSync {
      do throws(LogStoreError) {
        try announce()
      } catch {
        fail(error)
      }
    }
    if status.failure == nil { writer.prepareAhead(syncedFrameByteCount: needsSync ? frameByteCount : 0) }
    needsSync = false
  }

  private mutating func writeFrame() throws(LogStoreError) {
    let (start, eventCount) = (writer.next.position, writer.nextOffset - writer.next.offset)
    try writer.writeFrame()
    status.counters.countFrame(events: eventCount, bytes: writer.next.position - start)
  }

  private mutating func sync(isBegun: Bool) throws(LogStoreError) {
    if writer.isSynced { return }
    let start = disk.monotonicMicroseconds()
    try writer.sync(isBegun: isBegun)
    status.counters.countSync(microseconds: disk.monotonicMicroseconds() &- start, appends: appendsToSync)
    appendsToSync = 0
  }

  /// Checks that the directory is still where it was, with the lock file and the segment's file in it: nothing is
  /// acknowledged that went into a log which was moved away or removed. Checks ten times a second at most, since a check
  /// costs two system calls for each of three paths.
  private mutating func checkLock() throws(LogStoreError) {
    let now = disk.now()
    // The clock may have been set back.
    if let last = lastLockCheck, max(now, last) - min(now, last) < Self.lockCheckMicroseconds { return }
    lastLockCheck = now
    try disk.checkLock()
    try writer.checkFile()
  }

  /// Sends the responses that are due. Called before anything that may take longer than a group's write to disk.
  mutating func sendDue() {
    for (continuation, response) in due { continuation.resume(returning: response) }
    due.removeAll(keepingCapacity: true)
  }
}
