/// What a caller waits for.
struct CommitRequest: Sendable {
  enum Kind: Sendable {
    /// Answered once it is durable.
    case append(EncodedAppend)
    /// Answered once it has its place.
    case appendBuffered(EncodedAppend)
    /// Answered once everything before it is durable.
    case flush
  }

  typealias Answer = Result<Appended, LogStoreError>

  /// Bytes of its records.
  var byteCount: Int {
    switch kind {
    case .append(let append), .appendBuffered(let append): append.recordByteCount
    case .flush: 0
    }
  }

  var kind: Kind
  /// Unsafe, to spare an allocation for each append: the loop answers every request that its mailbox accepted, once.
  var continuation: UnsafeContinuation<Answer, Never>
}

/// The one thread that owns the end of the log. It takes everything that waits, checks conditions, gives out offsets and
/// versions, writes one frame, syncs once, publishes, and answers; meanwhile the next group gathers.
///
/// Nothing is answered from a state that a crash could undo: every answer of a group, a refusal too, is given after the
/// group's sync, and a request that may repeat one of the same group waits for the next. A buffered append alone is
/// answered at once, so that its caller makes the next while this one is written.
struct CommitLoop: ~Copyable {
  /// A group is written when it has this many bytes, whatever else waits.
  static let groupByteCount = 4 << 20

  /// Appends of two groups in a row from which on it is worth waiting for others to join.
  private static let siblingCount = 8
  /// The same from which on it is worth waiting twice as long.
  private static let manySiblingsCount = 32
  /// Requests with more bytes take so long to be put into a frame that no answer should wait for it.
  private static let dueByteCount = 128 << 10

  private static let lockLookMicroseconds: UInt64 = 100_000
  /// How often the lock is looked at while nothing is appended.
  private static let idleLookMilliseconds = 1000

  private let disk: any Disk
  private let gatherMilliseconds: UInt32
  private let dueCount: Int
  private let commitPoint: CommitPoint
  private var tail: TailFile
  private let status: CommitStatus
  private var writer: LogWriter

  /// The streams of the append that is looked at, as they stand with the group being built.
  private var streams: [StreamTail] = []
  private var answers: [(UnsafeContinuation<CommitRequest.Answer, Never>, CommitRequest.Answer)] = []
  /// Answers that may be given: while the disk writes the next group, if one waits already.
  private var due: [(UnsafeContinuation<CommitRequest.Answer, Never>, CommitRequest.Answer)] = []
  /// Someone in the group waits for durability.
  private var needsSync = false
  private var readAhead = GroupReadAhead()
  /// When the lock and the segment's file were last looked at; nil: look next time.
  private var lockLook: UInt64?

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

  /// Tells other processes how far the log is durable.
  mutating func announce(_ state: TailNotice.State = .open) throws(LogStoreError) {
    try tail.write(writer.durableEnd, segment: writer.index.segment.headerChecksum, state)
  }

  /// Runs until the mailbox is closed and empty; then makes everything durable. Gives back the end of the log and its
  /// last frame's checksum; nil after a failure.
  mutating func run(_ mailbox: Mailbox<CommitRequest>) -> (end: DurableEnd, chain: UInt32)? {
    var requests: [CommitRequest] = []
    var lastCount = 0
    while !requests.isEmpty || receive(mailbox, into: &requests) {
      status.note(isWorking: true)
      let siblings = requests.count + lastCount
      if gatherMilliseconds > 0, siblings >= Self.siblingCount {
        disk.sleep(milliseconds: siblings < Self.manySiblingsCount ? gatherMilliseconds : 2 * gatherMilliseconds)
        // Closed or not: the next call tells.
        _ = mailbox.receiveWaiting(into: &requests)
      }
      lastCount = requests.count
      if readAhead.isOn { answerDue() }
      readAhead.fetch(for: requests, writer, commitPoint.segments)
      var done = 0
      while done < requests.count {
        done = group(requests, from: done)
        commit()
      }
      requests.removeAll(keepingCapacity: true)
      if due.isEmpty { continue }
      // Closed or not: the next call tells.
      _ = mailbox.receiveWaiting(into: &requests)
      if requests.count < (dueCount + 1) / 2 || requests.reduce(0, { $0 + $1.byteCount }) > Self.dueByteCount {
        answerDue()
      }
    }
    needsSync = true
    status.note(isWorking: true)
    // Whatever the time: nobody looks after this.
    lockLook = nil
    commit()
    answerDue()
    status.note(isWorking: false)
    return status.failure == nil ? (writer.durableEnd, writer.next.chain) : nil
  }

  /// Waits for requests; meanwhile looks whether the directory is still there. False at the end.
  private mutating func receive(_ mailbox: Mailbox<CommitRequest>, into requests: inout [CommitRequest]) -> Bool {
    while status.failure == nil {
      status.note(isWorking: false)
      if let isOpen = mailbox.receive(into: &requests, milliseconds: Self.idleLookMilliseconds) { return isOpen }
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

  /// Nothing more is acknowledged. Where nothing more can come either, who waits for it learns why.
  private func fail(_ error: LogStoreError) {
    status.fail(error)
    switch error {
    case .moved, .segmentLost: commitPoint.endWaits(error)
    default: break
    }
  }

  // MARK: - One group

  /// Takes requests into the group; returns the index of the first that has to wait for the next one.
  private mutating func group(_ requests: [CommitRequest], from start: Int) -> Int {
    for index in start..<requests.count {
      let request = requests[index]
      if let failure = status.failure {
        answer(request, .failure(.stopped(cause: failure.description)))
        continue
      }
      let append: EncodedAppend
      switch request.kind {
      case .flush:
        needsSync = true
        answer(
          request, .success(Appended(offsets: writer.nextOffset..<writer.nextOffset, versions: [], isRepeat: false)))
        continue
      case .append(let encoded):
        append = encoded
        needsSync = true
      case .appendBuffered(let encoded):
        append = encoded
      }
      if !writer.isFrameEmpty, writer.frameByteCount + append.recordByteCount > Self.groupByteCount { return index }
      switch decide(append) {
      case .dependsOnGroup:
        return index
      case .refuse(let error):
        // It may rest on events of this group: answered before they are durable, it would be undone by a crash.
        needsSync = true
        answer(request, .failure(error))
      case .repeated(let appended):
        // The first one may have been buffered.
        needsSync = true
        answer(request, .success(appended))
      case .accept:
        if !writer.fits(append.recordByteCount) {
          if !writer.isFrameEmpty || !writer.isSynced {
            needsSync = true
            return index
          }
          if let failure = beginSegment(for: append.recordByteCount) {
            answer(request, .failure(failure))
            continue
          }
        }
        let first = writer.nextOffset
        let appended = Appended(
          offsets: first..<first + UInt64(append.eventCount), versions: giveVersions(to: append), isRepeat: false)
        // Before the work that is left to do: nothing can refuse it any more.
        if case .appendBuffered = request.kind {
          request.continuation.resume(returning: .success(appended))
        } else {
          answer(request, .success(appended))
        }
        add(append, appended.versions)
      }
    }
    return requests.count
  }

  private mutating func answer(_ request: CommitRequest, _ answer: CommitRequest.Answer) {
    answers.append((request.continuation, answer))
  }

  private mutating func beginSegment(for byteCount: Int) -> LogStoreError? {
    answerDue()
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

  /// The versions of the append's events, by its streams' as they stand.
  private mutating func giveVersions(to append: EncodedAppend) -> [UInt64] {
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

  /// Writes the group, syncs it if someone waits for that, publishes and answers; or leaves many answers due, for the time
  /// when the next group is on its way to the disk.
  private mutating func commit() {
    let frameByteCount = writer.isFrameEmpty ? 0 : writer.frameByteCount
    if status.failure == nil {
      do throws(LogStoreError) {
        try writer.writeFrame()
        if needsSync {
          let isBegun = !due.isEmpty
          if isBegun {
            writer.beginSync()
            answerDue()
          }
          try writer.sync(isBegun: isBegun)
          try checkLock()
          status.countSync()
          status.note(timestamp: writer.lastTimestamp)
          commitPoint.publish(writer.durableEnd, cursors: writer.cursors)
        } else {
          try checkLock()
        }
      } catch {
        // It isn't known what is on disk, and trying again would not tell.
        fail(error)
        for index in answers.indices { answers[index].1 = .failure(error) }
      }
    }
    answerDue()
    swap(&answers, &due)
    // Who gathers has more to do with the processor than to poll.
    let staysDue = status.failure == nil && gatherMilliseconds == 0 && due.count >= dueCount
    if !staysDue { answerDue() }
    // Other processes learn of it after those who waited here.
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

  /// Whether the directory is still where it was, the lock file in it, and the segment's file in it: nothing is
  /// acknowledged that went into a log which has been moved away or removed. Looked at every tenth of a second, since it costs
  /// two system calls for each of three paths.
  private mutating func checkLock() throws(LogStoreError) {
    let now = disk.now()
    // The clock may have been set back.
    if let last = lockLook, max(now, last) - min(now, last) < Self.lockLookMicroseconds { return }
    lockLook = now
    try disk.checkLock()
    try writer.checkFile()
  }

  /// Gives the answers that are due; before anything that may take longer than a group's way to the disk.
  private mutating func answerDue() {
    for (continuation, answer) in due { continuation.resume(returning: answer) }
    due.removeAll(keepingCapacity: true)
  }

  // MARK: - Conditions

  enum Decision {
    /// The append's streams are in ``streams``.
    case accept
    case refuse(LogStoreError)
    case repeated(Appended)
    case dependsOnGroup
  }

  private mutating func decide(_ append: EncodedAppend) -> Decision {
    do throws(LogStoreError) {
      let cursors = CursorCheck(append, writer.cursors, end: writer.nextOffset + UInt64(append.eventCount))
      if let refusal = cursors.refusal { return .refuse(refusal) }
      try find(append)
      var unmet: LogStoreError?
      for (index, stream) in append.streams.enumerated() where !stream.condition.isMet(by: streams[index].version) {
        unmet = .conflict(
          stream: append.name(of: index), expected: stream.condition, actual: streams[index].version)
        break
      }
      let decision = limitReached(by: append).map { Decision.refuse($0) } ?? cursors.decision
      if unmet == nil, !append.hasIDs { return decision }
      if unmet != nil, !writer.isSynced {
        // Whether it repeats what buffered appends have written can be looked up once that is durable.
        needsSync = true
        return .dependsOnGroup
      }
      guard append.hasIDs else { return unmet.map { .refuse($0) } ?? decision }
      let given = append.given
      for case let id? in given.lazy.map(\.id) where writer.mayAwait(id) {
        // It is looked for in what is durable, which buffered appends alone would not become.
        needsSync = true
        return .dependsOnGroup
      }
      switch try known(append, given) {
      case .same(let appended): return .repeated(appended)
      // Before a conflict: one who reads the stream again and appends at its end would be refused for the id all the same.
      case .different(let reuse): return .refuse(.eventIDReused(reuse))
      case .none: return unmet.map { .refuse($0) } ?? decision
      }
    } catch {
      return .refuse(error)
    }
  }

  /// Whether an event of the append would get an offset or a version that the format has no room for.
  private func limitReached(by append: EncodedAppend) -> LogStoreError? {
    let count = UInt64(append.eventCount)
    guard count > 0 else { return nil }
    let limit = Limits.countLimit - count
    if writer.nextOffset >= limit {
      return .limitExceeded(
        what: "the offset of an event", actual: writer.nextOffset + count - 1, limit: Limits.countLimit - 2)
    }
    guard let stream = streams.first(where: { $0.version >= limit }) else { return nil }
    return .limitExceeded(
      what: "the version of an event in its stream", actual: max(stream.version, stream.version &+ count),
      limit: Limits.countLimit - 1)
  }

  /// Fills ``streams``: looks in the open segment, then in the one before, which is in memory too, then in the indexes of
  /// all.
  private mutating func find(_ append: EncodedAppend) throws(LogStoreError) {
    streams.removeAll(keepingCapacity: true)
    if faultCount() != 0 { writer.healNames() }
    let names = writer.names
    var missing = 0
    append.bytes.withUnsafeBytes { bytes in
      writer.index.state.withLock { table in
        if append.streams.count > 4 { table.prefetch(count: append.streams.count) { append.streams[$0].hash } }
        for stream in append.streams {
          let head = table.find(stream.hash, bytes.part(stream.namePosition, stream.nameLength), names)
          if head == nil { missing += 1 }
          streams.append(StreamTail(version: head.map { table.heads[$0].lastVersion } ?? 0, head: head))
        }
      }
      guard missing > 0, let previous = writer.previousIndex else { return }
      for (index, stream) in append.streams.enumerated() where streams[index].head == nil {
        let name = bytes.part(stream.namePosition, stream.nameLength)
        guard let version = previous.lastVersion(hash: stream.hash, name: name) else { continue }
        streams[index].version = version
        missing -= 1
      }
    }
    guard missing > 0 else { return }
    if writer.index.segment.mapping.faultCount > 0 || writer.previousIndex?.segment.mapping.faultCount ?? 0 > 0 {
      try writer.checkNames(of: append)
    }
    // It may be read from the disk.
    answerDue()
    let start = writer.now
    for index in streams.indices where streams[index].version == 0 {
      streams[index].version = try commitPoint.segments.lastSealedVersion(of: append.key(of: index))
    }
    readAhead.note(missing, from: start, to: writer.now)
  }

  /// What the log has of an append's ids.
  private mutating func known(
    _ append: EncodedAppend, _ given: [EncodedAppend.Given]
  ) throws(LogStoreError) -> KnownIDs {
    let check = KnownIDCheck(append, given, commitPoint.segments)
    while true {
      let faults = faultCount()
      // Most ids are new, which memory and the filters of the index show without reading the disk.
      guard try check.mayBeKnown() else { return .none }
      answerDue()
      let known = try check.run()
      // Again, if something that was read may have been zeros in the place of what can't be read.
      if faultCount() == faults { return known }
    }
  }
}

extension StreamCondition {
  /// - Parameter version: the stream's last version, 0 if it is new.
  func isMet(by version: UInt64) -> Bool {
    switch self {
    case .any: true
    case .noStream: version == 0
    case .streamExists: version > 0
    case .version(let expected): version == expected
    }
  }

  /// The version that must be the last, where there is just one.
  var namedVersion: UInt64? {
    switch self {
    case .any, .streamExists: nil
    case .noStream: 0
    case .version(let version): version
    }
  }
}
