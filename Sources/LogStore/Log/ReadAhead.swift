extension SegmentSet {
  /// The size of a usual record.
  private static let recordByteCount = 512

  /// Asks the disk for everything that finding the last versions of these streams reads, all at once: first the blocks of
  /// indexes, then, as those arrive, the records that they lead to. Waiting for one page after the other would take many
  /// times as long. This waits for the blocks, and not for the records.
  ///
  /// It only gives advice to the kernel. What it can't find or check is left to the query that follows.
  ///
  /// - Parameter hashes: usually of streams that are in no open or unsealed segment.
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
      // A segment that is not mapped yet is mapped by its first reader.
      let segment = snapshot.slot(source.ordinal + number).mapped
      segment?.mapping.readAhead(at: position, byteCount: Self.recordByteCount)
    }
  }
}
