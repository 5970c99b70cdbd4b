// Events by id, and frames by offset.

extension IndexQuery {
  /// Whether some source may have an event with this id.
  func mayHold(id: EventID) throws(IndexFailure) -> Bool {
    let key = IndexKey.eventID(id)
    let candidates = try snapshot.candidates(.eventIDs, key)
    for source in snapshot.sources {
      switch source.kind {
      case .open where !snapshot.open.candidates(for: id).isEmpty: return true
      case .unsealed where !snapshot.unsealed[source.index].candidates(for: id).isEmpty: return true
      case .file where try snapshot.isCandidate(source.index, candidates, .eventIDs, key): return true
      case .missing: return true
      case .open, .unsealed, .file: continue
      }
    }
    return false
  }

  /// The event with this id: one that is wanted if there is one, otherwise any other.
  func find(
    id: EventID, where isWanted: (Record, Segment) -> Bool
  ) throws(IndexFailure) -> (record: Record, segment: Segment)? {
    let key = IndexKey.eventID(id)
    let candidates = try snapshot.candidates(.eventIDs, key)
    var other: (record: Record, segment: Segment)?
    for source in snapshot.sources {
      switch source.kind {
      case .open, .unsealed:
        let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
        for position in index.candidates(for: id) {
          let address = RecordAddress(ordinal: source.ordinal, position: Int(position))
          guard let found = try self.event(at: address, source, id, key: nil) else { continue }
          if isWanted(found.record, found.segment) { return found }
          other = found
        }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .eventIDs, key) { continue }
        let file = try file(source)
        for listed in try blaming(file, { () throws(Fault) in try file.addresses(.eventIDs, key) }) {
          let address = try recordAddress(listed, file, source)
          guard let found = try self.event(at: address, source, id, key: key) else { continue }
          if isWanted(found.record, found.segment) { return found }
          other = found
        }
      }
    }
    return other
  }

  /// The event at an address, if it has this id.
  private func event(
    at address: RecordAddress, _ source: Snapshot.Source, _ id: EventID, key: UInt64?
  ) throws(IndexFailure) -> (record: Record, segment: Segment)? {
    let (segment, record) = try event(at: address, source)
    let found = record.id(in: segment.bytes, checksumSeed: segment.checksumSeed)
    if let key, !record.hasID || IndexKey.eventID(found) != key {
      throw blame(source, address, segment, "an event with another id")
    }
    return record.hasID && found == id ? (record, segment) : nil
  }

  /// The position of the last listed frame of the segment whose first event is at or before an offset.
  func framePosition(
    atOrBefore offset: UInt64, _ source: Snapshot.Source, _ ordinal: Int
  ) throws(IndexFailure) -> Int {
    switch source.kind {
    case .open, .unsealed:
      let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
      return index.framePosition(atOrBefore: UInt32(clamping: offset - index.segment.baseOffset))
    case .file, .missing:
      let file = try file(source)
      return try blaming(file) { () throws(Fault) in
        try file.framePosition(atOrBefore: offset, segment: ordinal - source.ordinal)
      }
    }
  }
}
