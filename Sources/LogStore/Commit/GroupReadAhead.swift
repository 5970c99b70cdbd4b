/// Has what a group's look-ups of old streams will read come from the disk all at once, where one after the other would
/// wait for each: a block of an index, then a record. Only advice is given: what is decided is decided by the look-ups that
/// follow, as without it.
///
/// While everything is in memory this does nothing. It begins when a look-up took so long that it must have waited for the
/// disk, and ends when a group needed nothing from there.
struct GroupReadAhead {
  /// Streams of one group; what is more waits as it would without.
  private static let streams = 1024
  /// What a look-up takes at most when all that it needs is in memory; a page from the disk takes 100.
  private static let lookUpMicroseconds: UInt64 = 5
  /// A look-up, or a group of them, over that has waited for a page; so short that being interrupted may count as it.
  private static let waitMicroseconds: UInt64 = 30

  private(set) var isOn = false
  private var hashes: [UInt64] = []

  /// Tells how long so many look-ups took.
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

  /// The clock may have been set back meanwhile.
  private static func hasWaited(_ count: Int, from start: UInt64, to end: UInt64) -> Bool {
    end > start && end - start > waitMicroseconds + lookUpMicroseconds * UInt64(count)
  }
}
