/// A query of the index in one snapshot of the log. It finds the addresses that index files and tables claim, and checks the
/// record at each address.
///
/// The parts: records at addresses, streams, event ids and frames (`IndexQuery+….swift`).
struct IndexQuery: ~Copyable {
  let set: SegmentSet
  let snapshot: Snapshot
  /// Streams share a key, so the query checks every address listed under it.
  let isCareful: Bool

  /// The part of a stream that one source has.
  struct Part {
    /// The source's number in the snapshot.
    var source: Int
    /// The range in ``Runs/addresses``.
    var first: Int
    var end: Int
  }

  struct Runs {
    /// Newest first.
    var parts = ContiguousArray<Part>()
    var addresses = ContiguousArray<RecordAddress>()
  }

  func file(_ source: Snapshot.Source) throws(IndexFailure) -> IndexFile {
    if source.kind == .file { return snapshot.files[source.index] }
    let segment = try segment(source.ordinal)
    do throws(LogStoreError) {
      return try set.builtIndex(segment)
    } catch {
      throw .log(error)
    }
  }

  @inline(__always)
  func segment(_ ordinal: Int) throws(IndexFailure) -> Segment {
    do throws(LogStoreError) {
      return try set.segment(ordinal, in: snapshot)
    } catch {
      throw .log(error)
    }
  }

  /// The failure that a record or a frame is not what an index says. The log is wrong if this process built the index from
  /// the segment, since such an index can't be.
  func blame(_ source: Snapshot.Source, _ ordinal: Int, _ segment: Segment, _ fault: Fault) -> IndexFailure {
    guard source.kind == .file else { return .log(segment.damage(fault)) }
    return .index(
      snapshot.files[source.index],
      Fault(
        position: 0,
        reason:
          "the index leads to byte \(fault.position) of the segment of offset \(segment.baseOffset): \(fault.reason)"),
      segment: ordinal - source.ordinal)
  }

  func blame(
    _ source: Snapshot.Source, _ address: RecordAddress, _ segment: Segment, _ reason: String
  ) -> IndexFailure {
    blame(source, address.ordinal, segment, Fault(position: address.position, reason: reason))
  }

  /// Runs `body` and blames the index file for a fault.
  func blaming<Value>(
    _ file: IndexFile, _ body: () throws(Fault) -> Value
  ) throws(IndexFailure) -> Value {
    do throws(Fault) {
      return try body()
    } catch {
      throw .index(file, error, segment: nil)
    }
  }

  /// The record's address for an address in an index file.
  func recordAddress(
    _ listed: UInt64, _ file: IndexFile, _ source: Snapshot.Source
  ) throws(IndexFailure) -> RecordAddress {
    try blaming(file) { () throws(Fault) in try file.recordAddress(listed, firstOrdinal: source.ordinal) }
  }

  /// Prefetches the memory of the first records and of their frames' headers, all at once: they lie far apart, and waiting
  /// for one after the other is most of the cost of a load.
  func prefetch(_ runs: borrowing Runs, limit: Int) {
    for isHeader in [false, true] {
      var left = min(limit, Self.prefetched)
      for part in runs.parts.reversed() {
        for number in part.first..<min(part.end, part.first + left) {
          let address = runs.addresses[number]
          left -= 1
          // Skips a segment that is not mapped yet; reading the record maps it.
          if isHeader {
            snapshot.prefetchHeader(ordinal: address.ordinal, ofRecordAt: address.position)
          } else {
            snapshot.prefetchRecord(ordinal: address.ordinal, at: address.position)
          }
        }
        if left == 0 { break }
      }
    }
  }

  /// About the number of cache lines that a processor fetches at a time.
  private static let prefetched = 16
}
