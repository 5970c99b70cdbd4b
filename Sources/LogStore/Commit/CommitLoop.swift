/// What a caller waits for.
struct CommitRequest: Sendable {
  enum Kind: Sendable {
    /// Answered once it is durable.
    case append(EncodedAppend)
    /// Answered once it is written.
    case appendBuffered(EncodedAppend)
    /// Answered once everything before it is durable.
    case flush
  }

  typealias Answer = Result<Appended, LogStoreError>

  var kind: Kind
  /// Unsafe, to spare an allocation for each append: the loop answers every request that its mailbox accepted, once.
  var continuation: UnsafeContinuation<Answer, Never>
}

/// The one thread that owns the end of the log. It takes everything that waits, checks conditions, gives out offsets and
/// versions, writes one frame, syncs once, publishes, and answers; meanwhile the next group gathers.
///
/// Nothing is answered from a state that a crash could undo: every answer of a group, a refusal too, is given after the
/// group's sync, and a request that may repeat one of the same group waits for the next.
struct CommitLoop: ~Copyable {
  /// A group is written when it has this many bytes, whatever else waits.
  static let groupByteCount = 4 << 20
  /// Stream versions remembered from finished segments.
  static let versionsKept = 1 << 16

  private let durable: Durable
  private var tail: TailFile
  private let health: Health
  private var writer: LogWriter

  /// Versions that streams get with the group being built.
  private var pendingVersions: [StreamKey: UInt64] = [:]
  private var pendingIDs: Set<EventID> = []
  private var answers: [(UnsafeContinuation<CommitRequest.Answer, Never>, CommitRequest.Answer)] = []
  /// Someone in the group waits for durability.
  private var needsSync = false
  /// Last versions of streams that have no event in the open segment.
  private var sealedVersions: [StreamKey: UInt64] = [:]

  init(durable: Durable, tail: consuming TailFile, health: Health, writer: consuming LogWriter) {
    self.durable = durable
    self.tail = tail
    self.health = health
    self.writer = writer
  }

  /// Tells other processes how far the log is durable.
  mutating func announce(_ state: TailNotice.State = .open) throws(LogStoreError) {
    try tail.write(writer.durableEnd, state)
  }

  /// Runs until the mailbox is closed and empty; then makes everything durable. Gives back the end of the log and its
  /// last frame's checksum; nil after a failure.
  mutating func run(_ mailbox: Mailbox<CommitRequest>) -> (end: DurableEnd, chain: UInt32)? {
    var requests: [CommitRequest] = []
    while mailbox.receive(into: &requests) {
      var done = 0
      while done < requests.count {
        done = group(requests, from: done)
        commit()
      }
      requests.removeAll(keepingCapacity: true)
    }
    needsSync = true
    commit()
    return health.failure == nil ? (writer.durableEnd, writer.next.chain) : nil
  }

  // MARK: - One group

  /// Takes requests into the group; returns the index of the first that has to wait for the next one.
  private mutating func group(_ requests: [CommitRequest], from start: Int) -> Int {
    for index in start..<requests.count {
      let request = requests[index]
      if let failure = health.failure {
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
      if !writer.isFrameEmpty, writer.frameByteCount + append.bytes.count > Self.groupByteCount { return index }
      switch decide(append) {
      case .dependsOnGroup:
        return index
      case .refuse(let error):
        answer(request, .failure(error))
      case .repeated(let appended):
        // The first one may have been buffered.
        needsSync = true
        answer(request, .success(appended))
      case .accept(let versions):
        if !writer.fits(append.bytes.count) {
          if !writer.isFrameEmpty || !writer.isSynced {
            needsSync = true
            return index
          }
          if let failure = beginSegment(for: append.bytes.count) {
            answer(request, .failure(failure))
            continue
          }
        }
        answer(request, .success(add(append, versions)))
      }
    }
    return requests.count
  }

  private mutating func answer(_ request: CommitRequest, _ answer: CommitRequest.Answer) {
    answers.append((request.continuation, answer))
  }

  private mutating func beginSegment(for byteCount: Int) -> LogStoreError? {
    do throws(BeginFailure) {
      try writer.beginSegment(for: byteCount)
      // Streams of the segment that has ended have moved on from what is remembered.
      sealedVersions.removeAll(keepingCapacity: true)
      return nil
    } catch {
      switch error {
      case .unchanged(let cause):
        return cause
      case .broken(let cause):
        health.fail(cause)
        return cause
      }
    }
  }

  private mutating func add(_ append: EncodedAppend, _ baseVersions: [UInt64]) -> Appended {
    var versions = baseVersions
    var given: [UInt64] = []
    given.reserveCapacity(append.events.count)
    let first = writer.nextOffset
    append.bytes.withUnsafeBytes { bytes in
      for event in append.events {
        versions[event.stream] += 1
        given.append(versions[event.stream])
        _ = writer.add(
          event: bytes.part(event.start, event.byteCount), stream: append.streams[event.stream].key,
          version: versions[event.stream])
        if let id = event.id { pendingIDs.insert(id) }
      }
      for cursor in append.cursors {
        writer.add(
          cursor: bytes.part(cursor.start, cursor.byteCount), name: cursor.name, place: cursor.place,
          isReset: cursor.isReset)
      }
    }
    for (index, stream) in append.streams.enumerated() where versions[index] != baseVersions[index] {
      pendingVersions[stream.key] = versions[index]
    }
    return Appended(offsets: first..<writer.nextOffset, versions: given, isRepeat: false)
  }

  /// Writes the group, syncs it if someone waits for that, publishes and answers.
  private mutating func commit() {
    if health.failure == nil {
      do throws(LogStoreError) {
        try writer.writeFrame()
        if needsSync {
          try writer.sync()
          durable.publish(writer.durableEnd, cursors: writer.cursors)
        }
      } catch {
        // Nothing more is acknowledged: it isn't known what is on disk, and trying again would not tell.
        health.fail(error)
        for index in answers.indices { answers[index].1 = .failure(error) }
      }
    }
    for (continuation, answer) in answers { continuation.resume(returning: answer) }
    // Other processes learn of it after those who waited here.
    if health.failure == nil, needsSync {
      do throws(LogStoreError) {
        try announce()
      } catch {
        health.fail(error)
      }
    }
    answers.removeAll(keepingCapacity: true)
    pendingVersions.removeAll(keepingCapacity: true)
    pendingIDs.removeAll(keepingCapacity: true)
    needsSync = false
  }

  // MARK: - Conditions

  private enum Decision {
    /// With the versions that the append's streams are at.
    case accept([UInt64])
    case refuse(LogStoreError)
    case repeated(Appended)
    case dependsOnGroup
  }

  private mutating func decide(_ append: EncodedAppend) -> Decision {
    do throws(LogStoreError) {
      let end = writer.nextOffset + UInt64(append.events.count)
      for cursor in append.cursors {
        guard cursor.place <= end else {
          return .refuse(
            .invalidArgument(
              "cursor \(String(decoding: cursor.name, as: UTF8.self)) can't move to offset \(cursor.place),"
                + " the log ends with \(end)"))
        }
        guard writer.cursors[cursor.name] != nil || writer.cursors.count < Limits.cursors else {
          return .refuse(
            .limitExceeded(
              what: "the number of cursors", actual: UInt64(writer.cursors.count + 1), limit: UInt64(Limits.cursors)))
        }
      }
      var versions: [UInt64] = []
      versions.reserveCapacity(append.streams.count)
      var unmet: LogStoreError?
      for stream in append.streams {
        let pending = pendingVersions[stream.key]
        let version: UInt64
        if let pending { version = pending } else { version = try self.version(of: stream.key) }
        versions.append(version)
        if unmet == nil, !stream.condition.isMet(by: version) {
          unmet = .conflict(
            stream: String(decoding: stream.key.name, as: UTF8.self), expected: stream.condition, actual: version)
        }
      }
      let mayRepeatByID = append.events.contains { event in
        event.id != nil && !append.streams[event.stream].condition.namesVersion
      }
      if unmet == nil, !mayRepeatByID { return .accept(versions) }
      if unmet != nil, !writer.isSynced {
        // Whether it repeats what buffered appends have written can be looked up once that is durable.
        needsSync = true
        return .dependsOnGroup
      }
      for event in append.events {
        if let id = event.id, pendingIDs.contains(id) { return .dependsOnGroup }
      }
      switch try earlier(append, versions) {
      case .same(let appended): return .repeated(appended)
      case .different(let error): return .refuse(unmet ?? error)
      case .none: return unmet.map { .refuse($0) } ?? .accept(versions)
      }
    } catch {
      return .refuse(error)
    }
  }

  private mutating func version(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    if let version = writer.index.lastWrittenVersion(of: stream) { return version }
    if let version = sealedVersions[stream] { return version }
    let version = try durable.segments.lastSealedVersion(of: stream)
    if sealedVersions.count >= Self.versionsKept { sealedVersions.removeAll(keepingCapacity: true) }
    sealedVersions[stream] = version
    return version
  }

  private enum Earlier {
    case none
    case same(Appended)
    case different(LogStoreError)
  }

  /// Looks for the same append made before: the same ids for the same streams, one after the other.
  private func earlier(_ append: EncodedAppend, _ versions: [UInt64]) throws(LogStoreError) -> Earlier {
    var found: (event: EncodedAppend.Event, record: Record, segment: Segment)?
    for event in append.events {
      guard let id = event.id else { continue }
      let stream = append.streams[event.stream]
      if let (record, segment) = try place(of: id, stream, version: versions[event.stream]) {
        found = (event, record, segment)
        break
      }
    }
    guard let found, let first = append.events.first, let id = found.event.id else { return .none }
    let different = LogStoreError.eventIDReused(
      id: id, stream: String(decoding: append.streams[found.event.stream].key.name, as: UTF8.self),
      version: found.record.version)
    // The first event has to be the one found, and an append lies within one frame.
    guard found.event.start == first.start,
      let header = FrameHeader(in: found.segment.bytes, at: found.record.framePosition, place: found.segment.place)
    else { return .different(different) }
    let bytes = found.segment.bytes
    let frameEnd = found.record.framePosition + header.byteCount
    var position = found.record.position
    var given: [UInt64] = []
    for event in append.events {
      guard event.id != nil,
        let record = Record(in: bytes, at: position, limit: frameEnd, place: found.segment.place),
        record.kind == .event, record.hasID, record.id(in: bytes, place: found.segment.place) == event.id,
        append.streams[event.stream].key.matches(record, in: bytes)
      else { return .different(different) }
      given.append(record.version)
      position = record.end
    }
    let offset = found.segment.baseOffset + UInt64(found.record.relativeOffset)
    return .same(
      Appended(offsets: offset..<offset + UInt64(append.events.count), versions: given, isRepeat: true))
  }

  /// Where an event with this id is: at the version that the condition names, or anywhere in the stream.
  private func place(
    of id: EventID, _ stream: EncodedAppend.Stream, version: UInt64
  ) throws(LogStoreError) -> (Record, Segment)? {
    guard let base = stream.condition.namedVersion else {
      return try durable.segments.find(id: id, stream: stream.key)
    }
    guard version > base else { return nil }
    var found: (Record, Segment)?
    try durable.segments.forEachRecord(of: stream.key, from: base + 1, limit: 1) { record, _, segment in
      if record.hasID, record.id(in: segment.bytes, place: segment.place) == id { found = (record, segment) }
    }
    return found
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

  var namesVersion: Bool { namedVersion != nil }
}
