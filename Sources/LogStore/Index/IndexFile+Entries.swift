// What an index file says of streams, event ids and frames.

extension IndexFile {
  /// The file's claim about a stream's last event in it. Believe only the record at the address, and nothing unless
  /// `isOrdered`.
  struct LastClaim {
    var address: UInt64
    var version: UInt64
    /// The entries continue each other in versions and addresses, so the last address is the greatest.
    var isOrdered: Bool
  }

  func last(_ key: UInt64) throws(Fault) -> LastClaim? {
    var claim: LastClaim?
    try forEachEntry(.streams, key) { firstVersion, count, addresses throws(Fault) in
      var addresses = addresses
      let first = try Self.next(&addresses)
      var last = first
      for _ in 1..<count { last &+= try Self.next(&addresses) }
      let isOrdered = claim.map { $0.isOrdered && firstVersion == $0.version + 1 && first > $0.address } ?? true
      claim = LastClaim(address: last, version: firstVersion + UInt64(count - 1), isOrdered: isOrdered)
    }
    return claim
  }

  /// The file's claim about a run of a stream's events.
  struct RunClaim {
    /// The stream's first version in the file.
    var firstVersion: UInt64
    /// The version at the first of the addresses that were added.
    var startVersion: UInt64
    var isOrdered: Bool
  }

  /// Adds the addresses of a stream's events from a version on, at most `limit`. Returns nil if there is no entry at all.
  ///
  /// - Parameter firstOrdinal: the ordinal of the file's first segment in the snapshot.
  func run(
    _ key: UInt64, from version: UInt64, limit: Int, firstOrdinal: Int, into found: inout ContiguousArray<RecordAddress>
  ) throws(Fault) -> RunClaim? {
    var claim: RunClaim?
    var next: UInt64 = 0
    var lastAddress: UInt64 = 0
    var left = limit
    try forEachEntry(.streams, key) { firstVersion, count, addresses throws(Fault) in
      if claim == nil {
        claim = RunClaim(firstVersion: firstVersion, startVersion: max(version, firstVersion), isOrdered: true)
      } else if firstVersion != next {
        claim?.isOrdered = false
      }
      next = firstVersion + UInt64(count)
      let skipped = version > firstVersion ? min(Int(clamping: version - firstVersion), count) : 0
      var addresses = addresses
      var address: UInt64 = 0
      for ordinal in 0..<count {
        address &+= try Self.next(&addresses)
        if address <= lastAddress { claim?.isOrdered = false }
        lastAddress = address
        if ordinal >= skipped, left > 0 {
          found.append(try recordAddress(address, firstOrdinal: firstOrdinal))
          left -= 1
        }
      }
    }
    return claim
  }

  /// All addresses listed under a key, in the order of the entries.
  func addresses(_ section: IndexSection, _ key: UInt64) throws(Fault) -> [UInt64] {
    var found: [UInt64] = []
    try forEachEntry(section, key) { _, count, addresses throws(Fault) in
      var addresses = addresses
      var address: UInt64 = 0
      for _ in 0..<count {
        address &+= try Self.next(&addresses)
        found.append(address)
      }
    }
    return found
  }

  @inline(__always)
  private static func next(_ addresses: inout VarintReader) throws(Fault) -> UInt64 {
    guard let value = addresses.read() else {
      throw Fault(position: 0, reason: "the addresses of an entry of the index do not fit its block")
    }
    return value
  }

  /// Visits the entries of a key in order. Event ids have no versions: one address each.
  private func forEachEntry(
    _ section: IndexSection, _ key: UInt64,
    _ visit: (_ firstVersion: UInt64, _ count: Int, _ addresses: VarintReader) throws(Fault) -> Void
  ) throws(Fault) {
    let found = header.sections[section.rawValue]
    guard found.blockCount > 0 else { return }
    var number = block(section, key)
    var isFirst = true
    while true {
      let at = tablePosition(section, number)
      var upperBound: UInt64 = 0
      try withBlock(section, at: at) { block throws(Fault) in
        upperBound = block.upperBound
        guard isFirst ? block.lowerBound < key || block.lowerBound == 0 : block.lowerBound == key, key <= upperBound
        else { throw Fault(position: at, reason: "the index's table leads to the wrong block") }
        try Self.forEachEntry(of: block, section, key, at: at, visit)
      }
      if upperBound != key { return }
      isFirst = false
      number += 1
      guard number < found.blockCount else {
        throw Fault(position: at, reason: "the index's section of \(section.name) does not end where it should")
      }
    }
  }

  private static func forEachEntry(
    of block: IndexBlock, _ section: IndexSection, _ key: UInt64, at position: Int,
    _ visit: (_ firstVersion: UInt64, _ count: Int, _ addresses: VarintReader) throws(Fault) -> Void
  ) throws(Fault) {
    let misfit = "the entries of a block of the index do not fit it"
    var keys = VarintReader(block.keys)
    var before = 0
    var current = block.lowerBound
    while true {
      guard before < block.entryCount else { return }
      guard let delta = keys.read() else { throw Fault(position: position, reason: misfit) }
      current &+= delta
      if current >= key { break }
      before += 1
    }
    guard current == key else { return }
    var versions = VarintReader(block.versions)
    var addresses = VarintReader(block.addresses)
    let hasVersions = section == .streams
    var skipped = before
    if hasVersions {
      skipped = 0
      for _ in 0..<before {
        guard let version = IndexBlock.readVersion(&versions) else { throw Fault(position: position, reason: misfit) }
        skipped += version.count
      }
    }
    guard addresses.skip(skipped) else { throw Fault(position: position, reason: misfit) }
    var entry = before
    while true {
      var version: (count: Int, firstVersion: UInt64) = (1, 0)
      if hasVersions {
        guard let read = IndexBlock.readVersion(&versions) else { throw Fault(position: position, reason: misfit) }
        version = read
      }
      try visit(version.firstVersion, version.count, addresses)
      entry += 1
      guard entry < block.entryCount, let delta = keys.read(), delta == 0 else { return }
      guard addresses.skip(version.count) else { throw Fault(position: position, reason: misfit) }
    }
  }

  // MARK: - Frames

  /// The position of the last listed frame of a segment whose first event is at or before an offset of the segment.
  func framePosition(atOrBefore offset: UInt64, segment: Int) throws(Fault) -> Int {
    let found = header.sections[IndexSection.frames.rawValue]
    guard found.blockCount > 0, offset >= baseOffset, offset < endOffset else { return SegmentHeader.byteCount }
    let after = offset - baseOffset + 1
    let at = tablePosition(.frames, block(.frames, before: after, limit: endOffset - baseOffset))
    var address: UInt64?
    try withBlock(.frames, at: at) { block throws(Fault) in
      guard block.lowerBound < after || block.lowerBound == 0, after <= block.upperBound else {
        throw Fault(position: at, reason: "the index's table leads to the wrong block")
      }
      var keys = VarintReader(block.keys)
      var before = 0
      var key = block.lowerBound
      while before < block.entryCount {
        guard let delta = keys.read() else { break }
        key &+= delta
        if key >= after { break }
        before += 1
      }
      guard before > 0 else { return }
      var addresses = VarintReader(block.addresses)
      guard addresses.skip(before - 1), let found = addresses.read() else {
        throw Fault(position: at, reason: "the entries of a block of the index do not fit it")
      }
      address = found
    }
    guard let address else { return SegmentHeader.byteCount }
    let listed = try split(address)
    guard listed.segment <= segment else {
      throw Fault(position: at, reason: "the index leads to a frame of a later segment")
    }
    return listed.segment == segment ? listed.position : SegmentHeader.byteCount
  }
}
