/// The events of one segment that an index file lists.
struct ListedEvents {
  struct Event {
    var position: UInt32
    var key: UInt64
    var version: UInt64
  }

  /// In order of position.
  let events: [Event]

  /// Reads all of the index file. nil if it is damaged.
  ///
  /// - Parameter number: the segment's index in the file's segments.
  init?(_ index: IndexFile, segment number: Int) {
    var events: [Event] = []
    do throws(Fault) {
      let cursor = try IndexCursor(
        index, .streams, keyOffset: 0, segmentOffset: 0, shift: index.header.addressShift)
      while cursor.key != .max {
        for (ordinal, address) in cursor.addresses.enumerated() {
          let listed = try index.split(address)
          guard listed.segment == number else { continue }
          events.append(
            Event(
              position: UInt32(listed.position), key: cursor.key, version: cursor.firstVersion + UInt64(ordinal)))
        }
        try cursor.advance()
      }
    } catch {
      return nil
    }
    self.events = events.sorted { $0.position < $1.position }
  }

  /// Whether a file can't be the one that the index file was built from: where an event is listed, one of its sound frames has
  /// something else. Damaged frames tell nothing. Reads the file up to the first difference.
  func contradict(_ segment: Segment) -> Bool {
    var position = SegmentHeader.byteCount
    var next = 0
    while next < events.count, position <= segment.bytes.count - FrameHeader.byteCount {
      guard let header = FrameHeader(in: segment.bytes, at: position, checksumSeed: segment.checksumSeed) else {
        position += 8
        continue
      }
      let end = position + header.byteCount
      while next < events.count, events[next].position < position { next += 1 }
      let first = next
      while next < events.count, events[next].position < end { next += 1 }
      if !events[first..<next].allSatisfy({ isThere($0, before: end, in: segment) }),
        isSound(header, at: position, in: segment)
      {
        return true
      }
      position = end
    }
    return false
  }

  private func isThere(_ event: Event, before limit: Int, in segment: Segment) -> Bool {
    guard
      let record = Record(
        in: segment.bytes, at: Int(event.position), limit: limit, checksumSeed: segment.checksumSeed)
    else { return false }
    return record.kind == .event && record.version == event.version
      && IndexKey.stream(hash: streamHash(record.name(in: segment.bytes))) == event.key
  }

  private func isSound(_ header: FrameHeader, at position: Int, in segment: Segment) -> Bool {
    let expected = FrameExpectation(
      position: position, offset: header.firstOffset, chain: header.chain, timestamp: header.timestamp)
    do throws(Fault) {
      _ = try segment.checkFrame(expected) { _ in }
      return true
    } catch {
      return false
    }
  }
}
