// Encodes an `ActiveIndex` as an index file. Only this file reads the index's table for that.

/// What sealing needs of a stream in a finished segment.
struct SealingStream {
  var hash: UInt64
  /// The version of the stream's first event in the segment.
  var firstVersion: UInt64
  /// The stream's last event, counted from the segment's first event.
  var lastOrdinal: UInt32
  /// The number of the stream's events in the segment.
  var count: UInt32
}

/// A copy of what an index file needs of an ``ActiveIndex``, taken quickly under its lock.
struct SealingInput {
  /// Unordered.
  var streams: [SealingStream]
  /// By ordinal: the position of the record, and the ordinal + 1 of the stream's event before (0: none).
  var positions: [UInt32]
  var previous: [UInt32]
  /// Events with a stored id, unordered: the id's hash and the event's ordinal.
  var ids: [(hash: UInt64, ordinal: UInt32)]
  /// Frames with events: the relative offset of the first event, and the frame's position.
  var frames: [(relativeOffset: UInt32, position: UInt32)]
}

extension SegmentTable {
  func sealingInput() -> SealingInput {
    SealingInput(
      streams: heads.map { head in
        SealingStream(
          hash: head.hash, firstVersion: head.firstVersion, lastOrdinal: head.lastOrdinal, count: head.count)
      },
      positions: positions, previous: previous, ids: ids.map { ($0.key, $0.ordinal) }, frames: frames)
  }
}

enum IndexEncoding {
  /// Writes the index of a segment that ends at `end`, and returns the index's length.
  ///
  /// Reads only the segment's header, which was read when the segment was opened: the segment may have become unreadable,
  /// and the index must still list all of its events. A reader that follows the index to a damaged record finds the damage
  /// by the record's checksum.
  static func encode(
    _ input: SealingInput, of segment: Segment, end: FrameExpectation, to output: IndexOutput
  ) throws(IndexFailure) -> Int {
    let header = IndexHeader(
      storeID: segment.header.storeID,
      segments: [
        IndexedSegment(baseOffset: segment.baseOffset, endPosition: UInt32(end.position), chain: end.chain)
      ],
      endOffset: end.offset)
    var writer = try IndexWriter(header, to: output)
    try addFrames(input.frames, to: &writer)
    try writer.begin(.streams)
    try addStreams(input, to: &writer)
    try writer.begin(.eventIDs)
    try addIDs(input, to: &writer)
    return try writer.finish()
  }

  private static func addFrames(
    _ frames: [(relativeOffset: UInt32, position: UInt32)], to writer: inout IndexWriter
  ) throws(IndexFailure) {
    for frame in listed(frames) {
      try writer.add(key: UInt64(frame.relativeOffset), address: UInt64(frame.position))
    }
  }

  /// The frames with events that the segment's index lists.
  static func listed(
    _ frames: [(relativeOffset: UInt32, position: UInt32)]
  ) -> [(relativeOffset: UInt32, position: UInt32)] {
    var last: UInt32?
    return frames.filter { frame in
      if let last, frame.position - last < UInt32(IndexLayout.frameStrideByteCount) { return false }
      last = frame.position
      return true
    }
  }

  private static func addStreams(_ input: SealingInput, to writer: inout IndexWriter) throws(IndexFailure) {
    let streams = sortedByKey(input.streams) {
      $0.hash
    } then: {
      $0.lastOrdinal
    }
    var addresses = [UInt64](repeating: 0, count: Int(streams.map(\.count).max() ?? 0))
    for stream in streams {
      let key = IndexKey.stream(hash: stream.hash)
      let count = Int(stream.count)
      var ordinal = Int(stream.lastOrdinal)
      for index in stride(from: count - 1, through: 0, by: -1) {
        addresses[index] = UInt64(input.positions[ordinal])
        ordinal = Int(input.previous[ordinal]) - 1
      }
      let result = addresses.withUnsafeBufferPointer { addresses in
        Result { () throws(IndexFailure) in
          var start = 0
          while start < count {
            let part = min(IndexLayout.eventsPerEntry, count - start)
            try writer.add(
              key: key, firstVersion: stream.firstVersion + UInt64(start),
              addresses: UnsafeBufferPointer(rebasing: addresses[start..<start + part]))
            start += part
          }
        }
      }
      try result.get()
    }
  }

  private static func addIDs(
    _ input: SealingInput, to writer: inout IndexWriter
  ) throws(IndexFailure) {
    let ids = input.ids.map { (key: $0.hash, position: input.positions[Int($0.ordinal)]) }
    for id in sortedByKey(ids, key: { $0.key }, then: { $0.position }) {
      try writer.add(key: id.key >> 16, address: UInt64(id.position))
    }
  }

  /// Sorts by the upper 48 bits of evenly distributed keys, by a bucket sort: one pass puts each element into a bucket, so
  /// that few elements share one; each bucket is then sorted by comparisons. Clustered keys cost no more than a comparison
  /// sort.
  static func sortedByKey<Element>(
    _ elements: [Element], key: (Element) -> UInt64, then: (Element) -> UInt32
  ) -> [Element] {
    guard elements.count > 1 else { return elements }
    let bits = UInt64(max(1, Int.bitWidth - elements.count.leadingZeroBitCount - 2))
    var ends = [UInt32](repeating: 0, count: 1 << Int(bits) + 1)
    for element in elements { ends[Int(key(element) >> (64 - bits)) + 1] += 1 }
    for drawer in 1..<ends.count { ends[drawer] += ends[drawer - 1] }
    return [Element](unsafeUninitializedCapacity: elements.count) { sorted, count in
      for element in elements {
        let drawer = Int(key(element) >> (64 - bits))
        (sorted.baseAddress.unsafelyUnwrapped + Int(ends[drawer])).initialize(to: element)
        ends[drawer] += 1
      }
      count = elements.count
      var start = 0
      for drawer in 0..<ends.count - 1 {
        let end = Int(ends[drawer])
        sortDrawer(UnsafeMutableBufferPointer(rebasing: sorted[start..<end]), key: key, then: then)
        start = end
      }
    }
  }

  @inline(__always)
  private static func sortDrawer<Element>(
    _ drawer: UnsafeMutableBufferPointer<Element>, key: (Element) -> UInt64, then: (Element) -> UInt32
  ) {
    func isBefore(_ left: Element, _ right: Element) -> Bool {
      let (leftKey, rightKey) = (key(left) >> 16, key(right) >> 16)
      return leftKey == rightKey ? then(left) < then(right) : leftKey < rightKey
    }
    guard drawer.count > 1 else { return }
    guard drawer.count <= 32 else {
      var drawer = drawer
      drawer.sort(by: isBefore)
      return
    }
    for index in 1..<drawer.count {
      let element = drawer[index]
      var hole = index
      while hole > 0, isBefore(element, drawer[hole - 1]) {
        drawer[hole] = drawer[hole - 1]
        hole -= 1
      }
      drawer[hole] = element
    }
  }
}
