// What becomes of an append: accepted, refused, recognised as a repeat, or left for the next group.

extension CommitLoop {
  enum Decision {
    /// The append's streams are in ``streams``.
    case accept
    case refuse(LogStoreError)
    case repeated(Appended)
    case dependsOnGroup
  }

  mutating func decide(_ append: EncodedAppend) -> Decision {
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
        // A repeat of buffered appends can be looked up once they are durable.
        needsSync = true
        return .dependsOnGroup
      }
      guard append.hasIDs else { return unmet.map { .refuse($0) } ?? decision }
      let given = append.given
      for case let id? in given.lazy.map(\.id) where writer.mayAwait(id) {
        // The id is looked up in what is durable, and buffered appends alone would not become durable.
        needsSync = true
        return .dependsOnGroup
      }
      switch try known(append, given) {
      case .same(let appended): return .repeated(appended)
      // This comes before a conflict: a caller that reads the stream again and appends at its end would still be refused
      // for the id.
      case .different(let reuse): return .refuse(.eventIDReused(reuse))
      case .none: return unmet.map { .refuse($0) } ?? decision
      }
    } catch {
      return .refuse(error)
    }
  }

  /// The error if an event of the append would get an offset or a version that the format has no room for.
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

  /// Fills ``streams``: from the open segment, then from the previous one, which is in memory too, then from the indexes of
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
    // The index may have to be read from the disk.
    sendDue()
    let start = writer.now
    for index in streams.indices where streams[index].version == 0 {
      streams[index].version = try commitPoint.segments.lastSealedVersion(of: append.key(of: index))
    }
    readAhead.note(missing, from: start, to: writer.now)
  }

  /// What the log knows about an append's ids.
  private mutating func known(
    _ append: EncodedAppend, _ given: [EncodedAppend.Given]
  ) throws(LogStoreError) -> KnownIDs {
    let check = KnownIDCheck(append, given, commitPoint.segments)
    while true {
      let faults = faultCount()
      // Most ids are new. Memory and the filters of the index show that without reading the disk.
      guard try check.mayBeKnown() else { return .none }
      sendDue()
      let known = try check.run()
      // Repeat if a page that was read may have been zeros because the disk could not read it.
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

  /// The exact version that the condition requires, if it names one.
  var namedVersion: UInt64? {
    switch self {
    case .any, .streamExists: nil
    case .noStream: 0
    case .version(let version): version
    }
  }
}
