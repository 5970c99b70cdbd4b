import CLinux

/// An index file of one or more finished segments, opened. Everything in it is checked before it is used: the header when
/// it is opened, blocks and filter lines when they are read. What it says is a claim, to be checked against the record that
/// it leads to. May be used from any thread.
final class IndexFile: Sendable {
  let path: String
  let header: IndexHeader
  /// Made by this process from a segment, not read from a file.
  let isBuilt: Bool
  private let place: IndexChecksumSeed
  private let mapping: Mapping

  var bytes: UnsafeRawBufferPointer { mapping.bytes }
  var baseOffset: UInt64 { header.baseOffset }
  var endOffset: UInt64 { header.endOffset }
  var segmentCount: Int { header.segments.count }

  init(
    _ mapping: Mapping, path: String, storeID: StoreID, baseOffset: UInt64, endOffset: UInt64, isBuilt: Bool = false
  ) throws(Fault) {
    header = try IndexHeader(mapping.bytes)
    self.mapping = mapping
    self.path = path
    self.isBuilt = isBuilt
    place = header.place
    guard header.storeID == storeID else {
      throw Fault(position: 16, reason: "the index belongs to another store")
    }
    guard header.baseOffset == baseOffset, header.endOffset == endOffset else {
      throw Fault(position: 32, reason: "the index is of other segments than its name says")
    }
  }

  func damage(_ fault: Fault) -> LogStoreError {
    let fault = explained(fault)
    return .damaged(Damage(file: path, position: UInt64(fault.position), reason: fault.reason))
  }

  /// Something of it could not be read.
  var hasFaults: Bool { mapping.faultCount > 0 }

  /// What is wrong with it, or, if that is so, that it can't be read.
  func explained(_ fault: Fault) -> Fault { mapping.explained(fault) }

  /// An address's segment, by its number in the file, and position.
  func split(_ address: UInt64) throws(Fault) -> (segment: Int, position: Int) {
    let shift = UInt64(header.addressShift)
    guard address >> shift < UInt64(segmentCount) else {
      throw Fault(position: 0, reason: "the index leads to a segment that it does not cover")
    }
    return (Int(address >> shift), Int(address & ((1 as UInt64) << shift - 1)))
  }

  // MARK: - Filters

  /// Where a section's filter is, to be probed without coming here.
  func filter(_ section: IndexSection) -> FilterProbe {
    let found = header.sections[section.rawValue]
    let start = found.lineCount == 0 ? nil : bytes.baseAddress.map { $0 + found.filterPosition }
    return FilterProbe(
      lines: start, lineCount: found.lineCount, position: found.filterPosition, kind: section.lineKind, place: place)
  }

  /// Reads the filter that every look-up of a stream asks into memory, where it would come page by page otherwise.
  func keepStreamFilterReady() {
    let found = header.sections[IndexSection.streams.rawValue]
    mapping.keepReady(at: found.filterPosition, byteCount: found.lineCount * IndexFilter.lineByteCount)
  }

  /// Whether a filter line is as it was written.
  func isSound(line: Int, _ section: IndexSection) -> Bool {
    let at = header.sections[section.rawValue].filterPosition + line * IndexFilter.lineByteCount
    return bytes.integer(at: at + IndexFilter.checkedByteCount, as: UInt32.self)
      == place.checksum(of: bytes.part(at, IndexFilter.checkedByteCount), kind: section.lineKind, at: at)
  }

  /// For whoever can't go on with a filter that is damaged.
  func filterFault(_ section: IndexSection, key: UInt64) -> Fault {
    let found = header.sections[section.rawValue]
    return Fault(
      position: found.filterPosition + IndexFilter.line(key, lineCount: found.lineCount) * IndexFilter.lineByteCount,
      reason: "the checksum of a filter line of the index does not match")
  }

  // MARK: - Streams and ids

  /// What the file says of a stream's newest event in it. Not to be believed beyond the record at the address, and not at
  /// all unless `isOrdered`.
  struct LastClaim {
    var address: UInt64
    var version: UInt64
    /// The entries follow one on another in versions and addresses, so that the last address is the greatest.
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

  /// What the file says of a run of a stream's events.
  struct RunClaim {
    /// The stream's first version in the file.
    var firstVersion: UInt64
    /// The version at the first of the addresses that were added.
    var startVersion: UInt64
    var isOrdered: Bool
  }

  /// Adds the addresses of a stream's events from a version on, at most `limit`. nil if there is no entry at all.
  func run(
    _ key: UInt64, from version: UInt64, limit: Int, into places: inout ContiguousArray<UInt64>
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
          places.append(address)
          left -= 1
        }
      }
    }
    return claim
  }

  /// Every address listed under a key, in the order of the entries.
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

  /// Visits the entries of a key in order. Ids have no versions: one address each.
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

  /// The position of a frame of a segment whose first event is at or before an offset of it, as near to it as is listed.
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

  // MARK: - Blocks

  /// As ``block(_:before:limit:)`` for a section with a filter: from where the key's line says that its keys begin.
  private func block(_ section: IndexSection, _ key: UInt64) -> Int {
    let found = header.sections[section.rawValue]
    guard found.lineCount > 0 else { return 0 }
    let line =
      found.filterPosition + IndexFilter.line(key, lineCount: found.lineCount) * IndexFilter.lineByteCount
    // Where the block is as a rule: its memory comes while the table's does.
    let near = Int(bytes.integer(at: line + IndexFilter.blockPositionPosition, as: UInt32.self))
    prefetchBlock(at: near * IndexFilter.positionUnit)
    let number = Int(bytes.integer(at: line + IndexFilter.blockNumberPosition, as: UInt32.self))
    return block(found, before: key, from: min(number, found.blockCount - 1))
  }

  /// Asks the disk for the block that a key's filter line names, as a rule the one that a look-up will read.
  func readAheadBlock(_ section: IndexSection, _ key: UInt64) {
    let found = header.sections[section.rawValue]
    guard found.lineCount > 0 else { return }
    let line =
      found.filterPosition + IndexFilter.line(key, lineCount: found.lineCount) * IndexFilter.lineByteCount
    let near = Int(bytes.integer(at: line + IndexFilter.blockPositionPosition, as: UInt32.self))
    mapping.readAhead(at: near * IndexFilter.positionUnit, byteCount: IndexLayout.blockTargetByteCount)
  }

  /// The last block whose lower bound is less than a key, or the first, looked for from one on in both directions.
  private func block(_ found: IndexSectionPlace, before key: UInt64, from start: Int) -> Int {
    var (low, high) = (start, start)
    var step = 1
    if lowerBound(found, start) < key {
      high = found.blockCount
      while low + step < high, lowerBound(found, low + step) < key {
        low += step
        step *= 2
      }
      high = min(high, low + step)
    } else {
      low = 0
      while high - step > low, lowerBound(found, high - step) >= key {
        high -= step
        step *= 2
      }
      low = max(low, high - step)
    }
    // The one at `low`, or the first, is less; the one at `high`, if there is one, is not.
    while high - low > 1 {
      let middle = low + (high - low) / 2
      if lowerBound(found, middle) < key { low = middle } else { high = middle }
    }
    return low
  }

  /// Has the memory of a block at a position, or near it, fetched; all of a block will be read.
  @inline(__always)
  private func prefetchBlock(at position: Int) {
    guard let start = bytes.baseAddress else { return }
    // An address behind the mapping is harmless.
    for line in stride(from: 0, to: IndexLayout.blockTargetByteCount, by: 64) {
      clinux_prefetch(start + position + line)
    }
  }

  /// The last block whose lower bound is less than a key, or the first. The table is not checked: the block has to be.
  private func block(_ section: IndexSection, before key: UInt64, limit: UInt64) -> Int {
    let found = header.sections[section.rawValue]
    var low = 0
    var high = found.blockCount
    var lowKey: UInt64 = 0
    var highKey = max(limit, key)
    var last = 0
    // Keys are spread evenly as a rule, so a guess or two come near (interpolation search); the rest is a search from there.
    for _ in 0..<2 where high - low > 16 && key > lowKey && highKey > lowKey {
      let part = Double(key - lowKey) / Double(highKey - lowKey)
      let guess = min(max(low + Int(part * Double(high - low)), low + 1), high - 1)
      let guessKey = lowerBound(found, guess)
      if guessKey < key { (low, lowKey) = (guess, guessKey) } else { (high, highKey) = (guess, guessKey) }
      last = guess
    }
    return block(found, before: key, from: last)
  }

  @inline(__always)
  private func lowerBound(_ section: IndexSectionPlace, _ number: Int) -> UInt64 {
    bytes.integer(at: section.tablePosition + number * IndexLayout.tableEntryByteCount)
  }

  func tablePosition(_ section: IndexSection, _ number: Int) -> Int {
    let table = header.sections[section.rawValue].tablePosition
    return Int(clamping: bytes.integer(at: table + number * IndexLayout.tableEntryByteCount + 8, as: UInt64.self))
  }

  /// Checks the block at a position and hands it out; no allocation but for a large one that is compressed. Gives back how
  /// many bytes it takes in the file.
  @discardableResult
  func withBlock(
    _ section: IndexSection, at position: Int, _ body: (IndexBlock) throws(Fault) -> Void
  ) throws(Fault) -> Int {
    guard position >= IndexLayout.headerByteCount, position <= bytes.count - IndexLayout.blockHeadByteCount else {
      throw Fault(position: min(position, bytes.count), reason: "a block of the index that can't be there")
    }
    prefetchBlock(at: position)
    let byteCount = IndexLayout.blockHeadByteCount + Int(bytes.integer(at: position + 4, as: UInt16.self))
    guard byteCount <= bytes.count - position else {
      throw Fault(position: position, reason: "a block of the index that can't be there")
    }
    let checked = bytes.part(position + 4, byteCount - 4)
    guard
      bytes.integer(at: position, as: UInt32.self)
        == place.checksum(of: checked, kind: section.blockKind, at: position)
    else { throw Fault(position: position, reason: "the checksum of a block of the index does not match") }
    let isSound: Bool? = try IndexBlock.withRaw(bytes, at: position) { raw throws(Fault) in
      guard let block = IndexBlock(raw) else { return false }
      try body(block)
      return true
    }
    guard isSound == true else { throw Fault(position: position, reason: "a block of the index is not sound") }
    return byteCount
  }
}

/// A filter of an index file, ready to be probed. Good for as long as its ``IndexFile`` is held.
///
/// Sendable though it holds a pointer: into a mapping, which nobody writes.
struct FilterProbe: @unchecked Sendable {
  fileprivate let lines: UnsafeRawPointer?
  fileprivate let lineCount: Int
  fileprivate let position: Int
  fileprivate let kind: UInt8
  fileprivate let place: IndexChecksumSeed

  enum Answer {
    case absent
    case maybe
    /// It can't be told.
    case damaged
  }

  /// Has the line fetched that ``probe(_:)`` will look at.
  @inline(__always)
  func prefetch(_ key: UInt64) {
    guard let lines else { return }
    clinux_prefetch(lines + IndexFilter.line(key, lineCount: lineCount) &* IndexFilter.lineByteCount)
  }

  @inline(__always)
  func probe(_ key: UInt64) -> Answer {
    guard let lines else { return .absent }
    let offset = IndexFilter.line(key, lineCount: lineCount) &* IndexFilter.lineByteCount
    // Proof: keys have 48 bits, so the line's number is less than the count, and the header's check made sure that so many
    // lines are in the mapping.
    let line = lines + offset
    if IndexFilter.mayContain(key, in: line.assumingMemoryBound(to: UInt8.self)) { return .maybe }
    let checked = UnsafeRawBufferPointer(start: line, count: IndexFilter.checkedByteCount)
    let checksum = UInt32(littleEndian: (line + IndexFilter.checkedByteCount).loadUnaligned(as: UInt32.self))
    return place.checksum(of: checked, kind: kind, at: position &+ offset) == checksum ? .absent : .damaged
  }
}
