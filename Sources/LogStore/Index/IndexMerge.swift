/// Merges consecutive index files into one. Entries pass through block by block, so memory doesn't grow with their number.
enum IndexMerge {
  /// - Parameter inputs: at least one file, from the oldest on, each beginning where the one before ends.
  /// - Returns: the merged file's length.
  static func merge(_ inputs: [IndexFile], to output: IndexOutput) throws(IndexFailure) -> Int {
    let last = inputs[inputs.count - 1]
    precondition(zip(inputs, inputs.dropFirst()).allSatisfy { $0.endOffset == $1.baseOffset })
    let header = IndexHeader(
      storeID: last.header.storeID, segments: inputs.flatMap(\.header.segments), endOffset: last.endOffset)
    var writer = try IndexWriter(header, to: output)
    try mergeFrames(inputs, header, to: &writer)
    try writer.begin(.streams)
    try mergeStreams(inputs, header, to: &writer)
    try writer.begin(.eventIDs)
    try mergeIDs(inputs, header, to: &writer)
    return try writer.finish()
  }

  private static func cursors(
    _ inputs: [IndexFile], _ section: IndexSection, _ header: IndexHeader
  ) throws(IndexFailure) -> [IndexCursor] {
    var cursors: [IndexCursor] = []
    var segmentOffset = 0
    for input in inputs {
      cursors.append(
        try blaming(input) { () throws(Fault) in
          try IndexCursor(
            input, section, keyOffset: section == .frames ? input.baseOffset - header.baseOffset : 0,
            segmentOffset: segmentOffset, shift: header.addressShift)
        })
      segmentOffset += input.segmentCount
    }
    return cursors
  }

  @inline(__always)
  private static func blaming<Value>(
    _ input: IndexFile, _ body: () throws(Fault) -> Value
  ) throws(IndexFailure) -> Value {
    do throws(Fault) {
      return try body()
    } catch {
      throw .index(input, error, segment: nil)
    }
  }

  /// Frames of one file come before those of the next.
  private static func mergeFrames(
    _ inputs: [IndexFile], _ header: IndexHeader, to writer: inout IndexWriter
  ) throws(IndexFailure) {
    for (input, cursor) in zip(inputs, try cursors(inputs, .frames, header)) {
      while cursor.key != .max {
        try writer.add(key: cursor.key, address: cursor.addresses[0])
        try blaming(input) { () throws(Fault) in try cursor.advance() }
      }
    }
  }

  /// Joins consecutive entries of a key into one. It does not check that they belong to one stream: readers check the
  /// records.
  private static func mergeStreams(
    _ inputs: [IndexFile], _ header: IndexHeader, to writer: inout IndexWriter
  ) throws(IndexFailure) {
    let cursors = try cursors(inputs, .streams, header)
    var pending = PendingEntry()
    try forEachInOrder(cursors, inputs) { cursor throws(IndexFailure) in
      let addresses = cursor.addresses
      if !pending.continues(with: cursor.key, cursor.firstVersion, addresses) {
        try pending.write(to: &writer)
        pending.key = cursor.key
        pending.firstVersion = cursor.firstVersion
      }
      pending.append(addresses)
    }
    try pending.write(to: &writer)
  }

  private static func mergeIDs(
    _ inputs: [IndexFile], _ header: IndexHeader, to writer: inout IndexWriter
  ) throws(IndexFailure) {
    try forEachInOrder(try cursors(inputs, .eventIDs, header), inputs) { cursor throws(IndexFailure) in
      try writer.add(key: cursor.key, address: cursor.addresses[0])
    }
  }

  /// Visits the entries of all cursors by ascending key; entries of one key from the oldest file on.
  @inline(__always)
  private static func forEachInOrder(
    _ cursors: [IndexCursor], _ inputs: [IndexFile], _ visit: (IndexCursor) throws(IndexFailure) -> Void
  ) throws(IndexFailure) {
    // There are few cursors, so comparing all of them is as fast as any tree.
    var heads = cursors.map(\.key)
    while true {
      var least = 0
      var key = heads[0]
      for number in 1..<heads.count where heads[number] < key {
        key = heads[number]
        least = number
      }
      if key == .max { return }
      let cursor = cursors[least]
      try visit(cursor)
      try blaming(inputs[least]) { () throws(Fault) in try cursor.advance() }
      heads[least] = cursor.key
    }
  }

  /// The entry of the merged file that may still grow.
  private struct PendingEntry: ~Copyable {
    var key: UInt64 = 0
    var firstVersion: UInt64 = 0
    private var count = 0
    private let collected = UnsafeMutablePointer<UInt64>.allocate(capacity: IndexLayout.eventsPerEntry)

    deinit {
      collected.deallocate()
    }

    @inline(__always)
    func continues(
      with key: UInt64, _ firstVersion: UInt64, _ addresses: UnsafeBufferPointer<UInt64>
    ) -> Bool {
      count > 0 && key == self.key && firstVersion == self.firstVersion &+ UInt64(count)
        && count + addresses.count <= IndexLayout.eventsPerEntry && addresses[0] > collected[count - 1]
    }

    @inline(__always)
    mutating func append(_ addresses: UnsafeBufferPointer<UInt64>) {
      // Proof: an entry has at most as many addresses as there is room for, and `continues` has checked the sum.
      for address in addresses {
        collected[count] = address
        count &+= 1
      }
    }

    mutating func write(to writer: inout IndexWriter) throws(IndexFailure) {
      guard count > 0 else { return }
      try writer.add(
        key: key, firstVersion: firstVersion, addresses: UnsafeBufferPointer(start: collected, count: count))
      count = 0
    }
  }
}
