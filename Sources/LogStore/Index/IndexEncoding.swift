// Making an index file from an `ActiveIndex`: the only place that looks into its table for that.

/// What sealing needs to know of a stream in a finished segment.
struct SealingStream {
  var hash: UInt64
  /// Of the stream's first event in the segment.
  var firstVersion: UInt64
  /// The stream's newest event, counted from the segment's first.
  var lastOrdinal: UInt32
  /// Events in the segment.
  var count: UInt32
}

/// What is taken out of an ``ActiveIndex`` to make a file of it, under its lock and quickly.
struct SealingInput {
  /// In no order.
  var streams: [SealingStream]
  /// By ordinal: record positions, and the ordinal + 1 of the stream's event before (0: none).
  var positions: [UInt32]
  var previous: [UInt32]
  /// Events with a stored id, in no order: the id's hash, the event's ordinal.
  var ids: [(hash: UInt64, ordinal: UInt32)]
  /// Frames with events: relative offset of the first, position.
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
  /// Writes the index of a segment that has ended at `end`, and returns how long it is.
  ///
  /// Reads nothing of the segment but its header, which was read when it was opened: the segment may have become unreadable,
  /// and the index must still list all of its events. A reader that follows the index to a damaged record finds the damage by its checksum.
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

  /// Those of a segment's frames with events that its index lists.
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
    var places = [UInt64](repeating: 0, count: Int(streams.map(\.count).max() ?? 0))
    for stream in streams {
      let key = IndexKey.stream(hash: stream.hash)
      let count = Int(stream.count)
      var ordinal = Int(stream.lastOrdinal)
      for index in stride(from: count - 1, through: 0, by: -1) {
        places[index] = UInt64(input.positions[ordinal])
        ordinal = Int(input.previous[ordinal]) - 1
      }
      let result = places.withUnsafeBufferPointer { places in
        Result { () throws(IndexFailure) in
          var start = 0
          while start < count {
            let part = min(IndexLayout.eventsPerEntry, count - start)
            try writer.add(
              key: key, firstVersion: stream.firstVersion + UInt64(start),
              addresses: UnsafeBufferPointer(rebasing: places[start..<start + part]))
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

  /// Sorts by the upper 48 bits of keys that are spread evenly: one pass puts each element into one of so many drawers
  /// that a few share one, which are then sorted by comparing (a bucket sort). Keys that crowd cost no more than a sort.
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
      var place = index
      while place > 0, isBefore(element, drawer[place - 1]) {
        drawer[place] = drawer[place - 1]
        place -= 1
      }
      drawer[place] = element
    }
  }
}
