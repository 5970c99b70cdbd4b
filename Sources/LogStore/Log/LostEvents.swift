/// Finds out from index files which events stood at lost offsets: an index lists the positions of all events of a segment,
/// so the nth in order of position is the nth event of the segment.
struct LostEvents {
  private let indexes: [IndexFile]
  /// The events of the last segment that was queried.
  private var last: (index: IndexFile, number: Int, events: [ListedEvents.Event])?

  init(_ indexes: [IndexFile]) {
    // The smallest first: they need less reading for one segment.
    self.indexes = indexes.sorted { ($0.segmentCount, $0.baseOffset) < ($1.segmentCount, $1.baseOffset) }
  }

  /// The lost events of a range that an index lists.
  ///
  /// - Parameter saved: sound events near the range. An index that lists them at other positions is ignored.
  mutating func events(
    in range: Range<UInt64>, saved: [(offset: UInt64, position: Int)]
  ) -> [LostEvent] {
    var found: [LostEvent] = []
    var next = range.lowerBound
    while next < range.upperBound {
      guard let (base, end, events) = segment(holding: next, saved: saved) else {
        // Another index may list events further on.
        let further = indexes.flatMap { $0.header.segments.map(\.baseOffset) }.filter { $0 > next }.min()
        next = min(further ?? range.upperBound, range.upperBound)
        continue
      }
      let until = min(end, range.upperBound)
      while next < until, next - base < UInt64(events.count) {
        let event = events[Int(next - base)]
        found.append(LostEvent(offset: next, stream: nil, version: event.version, key: event.key))
        next += 1
      }
      next = until
    }
    return found
  }

  private mutating func segment(
    holding offset: UInt64, saved: [(offset: UInt64, position: Int)]
  ) -> (base: UInt64, end: UInt64, events: [ListedEvents.Event])? {
    for index in indexes where (index.baseOffset..<index.endOffset).contains(offset) {
      let segments = index.header.segments
      let number = segments.partitionPoint { $0.baseOffset > offset } - 1
      let base = segments[number].baseOffset
      let end = number + 1 < segments.count ? segments[number + 1].baseOffset : index.endOffset
      guard let events = read(index, number), UInt64(events.count) <= end - base,
        saved.allSatisfy({ event in
          guard (base..<end).contains(event.offset) else { return true }
          let ordinal = Int(event.offset - base)
          return ordinal < events.count && Int(events[ordinal].position) == event.position
        })
      else { continue }
      return (base, end, events)
    }
    return nil
  }

  private mutating func read(_ index: IndexFile, _ number: Int) -> [ListedEvents.Event]? {
    if let last, last.index === index, last.number == number { return last.events }
    guard let listed = ListedEvents(index, segment: number) else { return nil }
    last = (index, number, listed.events)
    return listed.events
  }
}

extension LostEvent {
  /// The key of a stream's events.
  public static func key(ofStream name: String) -> UInt64 {
    var name = name
    return name.withUTF8 { IndexKey.stream(hash: streamHash(UnsafeRawBufferPointer($0))) }
  }
}
