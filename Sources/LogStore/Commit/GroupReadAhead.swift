/// Prefetches what a group's lookups of old streams will read. The lookups alone would wait for the disk twice each, one
/// after the other: for a block of an index, then for a record. This only advises the kernel; the lookups that follow
/// decide the same with or without it.
///
/// It does nothing while everything is in memory. It starts when a lookup took so long that it must have waited for the
/// disk, and stops when a group needed nothing from there.
struct GroupReadAhead {
  /// Streams of one group that are prefetched; the rest wait as usual.
  private static let streams = 1024
  /// The most that a lookup takes when everything it needs is in memory. A page from the disk takes 100.
  private static let lookUpMicroseconds: UInt64 = 5
  /// A lookup, or a group of lookups, that takes longer has waited for a page. The limit is low enough that an interruption
  /// may count as a wait too.
  private static let waitMicroseconds: UInt64 = 30

  private(set) var isOn = false
  private var hashes: [UInt64] = []

  /// Records how long `count` lookups took.
  mutating func note(_ count: Int, from start: UInt64, to end: UInt64) {
    if Self.hasWaited(count, from: start, to: end) { isOn = true }
  }

  mutating func fetch(for requests: [CommitRequest], _ writer: borrowing LogWriter, _ segments: SegmentSet) {
    guard isOn, requests.count > 1 else { return }
    hashes.removeAll(keepingCapacity: true)
    for request in requests {
      switch request.kind {
      case .flush: continue
      case .append(let append), .appendBuffered(let append):
        append.bytes.withUnsafeBytes { bytes in
          for stream in append.streams where hashes.count < Self.streams {
            let name = bytes.part(stream.namePosition, stream.nameLength)
            if !writer.holds(stream.hash, name) { hashes.append(stream.hash) }
          }
        }
      }
    }
    guard hashes.count > 1 else { return }
    let start = writer.now
    segments.readAhead(lastEventsOf: hashes)
    isOn = Self.hasWaited(hashes.count, from: start, to: writer.now)
  }

  /// The clock may have been set back in between.
  private static func hasWaited(_ count: Int, from start: UInt64, to end: UInt64) -> Bool {
    end > start && end - start > waitMicroseconds + lookUpMicroseconds * UInt64(count)
  }
}
