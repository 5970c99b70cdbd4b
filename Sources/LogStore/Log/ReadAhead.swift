extension SegmentSet {
  /// A record of usual size.
  private static let recordByteCount = 512

  /// Asks the disk for all that looking up the last versions of these streams reads, for all at once, where waiting for one
  /// page after the other would take many times as long: first the blocks of indexes, then, as those come, the records that
  /// they lead to. Waits for the blocks and not for the records.
  ///
  /// Only advice is given, and nothing is decided. What can't be found or isn't sound is left to whoever looks up.
  ///
  /// - Parameter hashes: of streams that are in no open or unsealed segment, as a rule.
  func readAhead(lastEventsOf hashes: [UInt64]) {
    guard let snapshot = try? current() else { return }
    var found: [(source: Snapshot.Source, key: UInt64)] = []
    for hash in hashes {
      let key = IndexKey.stream(hash: hash)
      guard let candidates = try? snapshot.candidates(.streams, key) else { continue }
      for source in snapshot.sources where source.kind == .file {
        guard (try? snapshot.isCandidate(source.index, candidates, .streams, key)) == true else { continue }
        snapshot.files[source.index].readAheadBlock(.streams, key)
        found.append((source, key))
      }
    }
    for (source, key) in found {
      let file = snapshot.files[source.index]
      guard let claim = try? file.last(key), let (number, position) = try? file.split(claim.address) else { continue }
      // A segment that is not mapped yet is mapped when it is read.
      let segment = snapshot.slot(source.ordinal + number).mapped
      segment?.mapping.readAhead(at: position, byteCount: Self.recordByteCount)
    }
  }
}
