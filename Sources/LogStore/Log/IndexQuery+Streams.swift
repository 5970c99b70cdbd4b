// The events and versions of a stream.

extension IndexQuery {
  /// A stream's last version in finished segments; 0 if it has none.
  ///
  /// - Parameter known: the stream's entry in the cache.
  func lastSealedVersion(of stream: StreamKey, _ known: StreamCache.Entry?) throws(IndexFailure) -> UInt64 {
    try checkNames(of: stream)
    let key = IndexKey.stream(hash: stream.hash)
    let sourceCount = snapshot.sourceCount(behind: known?.coveredEnd ?? 0)
    let candidates = try snapshot.candidates(.streams, key, sourceCount: sourceCount)
    for source in snapshot.sources[..<sourceCount] {
      switch source.kind {
      case .open: continue
      case .unsealed:
        let index = snapshot.unsealed[source.index]
        if let version = index.lastVersion(of: stream, in: index.segment) { return version }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .streams, key) { continue }
        if let version = try lastVersion(of: stream, in: try file(source), source) { return version }
      }
    }
    return UInt64(known?.records.count ?? 0)
  }

  private func lastVersion(
    of stream: StreamKey, in file: IndexFile, _ source: Snapshot.Source
  ) throws(IndexFailure) -> UInt64? {
    if isCareful { return try addressesOneByOne(of: stream, in: file, source).last?.version }
    let key = IndexKey.stream(hash: stream.hash)
    guard let claim = try blaming(file, { () throws(Fault) in try file.last(key) }) else { return nil }
    guard claim.isOrdered else { throw .sharedKey }
    let address = try recordAddress(claim.address, file, source)
    let (segment, record) = try record(at: address, source, of: stream)
    guard record.version == claim.version else {
      throw blame(source, address, segment, "version \(record.version) of the stream, expected \(claim.version)")
    }
    return record.version
  }

  /// The addresses of a stream's events from a version on, at most `limit` in each source.
  ///
  /// - Parameter coveredEnd: segments that begin before this offset are left out.
  func runs(
    of stream: StreamKey, from version: UInt64, limit: Int, behind coveredEnd: UInt64 = 0
  ) throws(IndexFailure) -> Runs {
    try checkNames(of: stream)
    let key = IndexKey.stream(hash: stream.hash)
    let sourceCount = snapshot.sourceCount(behind: coveredEnd)
    let candidates = try snapshot.candidates(.streams, key, sourceCount: sourceCount)
    var runs = Runs()
    for number in 0..<sourceCount {
      let source = snapshot.sources[number]
      let first = runs.addresses.count
      var firstVersion: UInt64?
      switch source.kind {
      case .open, .unsealed:
        let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
        if let run = index.run(of: stream, from: version, limit: limit, in: index.segment) {
          firstVersion = run.firstVersionInSegment
          for position in run.positions {
            runs.addresses.append(RecordAddress(ordinal: source.ordinal, position: Int(position)))
          }
        }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .streams, key) { continue }
        firstVersion = try addRun(
          of: stream, from: version, limit: limit, try file(source), source, to: &runs.addresses)
      }
      if runs.addresses.count > first {
        runs.parts.append(Part(source: number, first: first, end: runs.addresses.count))
      }
      if let firstVersion, firstVersion <= version { break }
    }
    return runs
  }

  /// Adds addresses to `addresses`. Returns the stream's first version in the file; nil if the file has no event of it.
  private func addRun(
    of stream: StreamKey, from version: UInt64, limit: Int, _ file: IndexFile, _ source: Snapshot.Source,
    to addresses: inout ContiguousArray<RecordAddress>
  ) throws(IndexFailure) -> UInt64? {
    if isCareful {
      let found = try addressesOneByOne(of: stream, in: file, source)
      addresses.append(contentsOf: found.lazy.filter { $0.version >= version }.prefix(limit).map(\.address))
      return found.first?.version
    }
    let first = addresses.count
    let claim: IndexFile.RunClaim?
    do throws(Fault) {
      claim = try file.run(
        IndexKey.stream(hash: stream.hash), from: version, limit: limit, firstOrdinal: source.ordinal, into: &addresses)
    } catch {
      throw .index(file, error, segment: nil)
    }
    guard let claim else { return nil }
    guard claim.isOrdered else { throw .sharedKey }
    if first == addresses.count {
      // No record of the run will be read, so check here that the run is the stream's.
      return try lastVersion(of: stream, in: file, source) == nil ? nil : claim.firstVersion
    }
    return claim.firstVersion
  }
}
