import CChecksum

// The layout of index files, docs/FORMAT.md: values ↔ bytes. Writing is `IndexWriter`, reading `IndexFile`.

enum IndexLayout {
  static let magic: StaticString = "LSINDEX3"
  static let headerByteCount = 168
  static let sectionsPosition = 72
  static let sectionByteCount = 32
  static let segmentByteCount = 16
  static let blockHeadByteCount = 8
  static let rawHeadByteCount = 24
  static let tableEntryByteCount = 16
  /// What a block holds before it is compressed, about. Small, since a look-up reads one whole.
  static let blockTargetByteCount = 1536
  static let eventsPerEntry = 1024
  /// Frames closer to each other are left out: a look-up walks over them.
  static let frameStrideByteCount = 16 << 10
  /// More than any disk could hold, and so few that no sum of them overflows.
  static let segmentsPerFile = 1 << 20

  /// Bytes before the first block.
  static func blocksPosition(segmentCount: Int) -> Int {
    (headerByteCount + segmentCount * segmentByteCount + 4).roundedUp(to: 8)
  }

  static func addressShift(endPosition: UInt32) -> UInt32 {
    max(12, UInt32(UInt32.bitWidth - endPosition.leadingZeroBitCount))
  }
}

/// What an index file holds of one kind. Blocks and filter lines are checked with different numbers.
enum IndexSection: Int, CaseIterable, Sendable {
  case frames = 0
  case streams = 1
  case eventIDs = 2

  var blockKind: UInt8 { UInt8(rawValue + 1) }
  var lineKind: UInt8 { UInt8(rawValue + 3) }
  var name: String {
    switch self {
    case .frames: "frames"
    case .streams: "streams"
    case .eventIDs: "event ids"
    }
  }
}

/// A segment as an index file names it.
struct IndexedSegment: Equatable, Sendable {
  var baseOffset: UInt64
  /// Behind the last frame.
  var endPosition: UInt32
  /// The last frame's header checksum: the index belongs to exactly this content.
  var chain: UInt32
}

/// Where a section's parts are.
struct IndexSectionPlace: Equatable, Sendable {
  var blocksPosition = 0
  var tablePosition = 0
  var filterPosition = 0
  var blockCount = 0
  var lineCount = 0
}

/// The beginning of an index file.
struct IndexHeader: Sendable {
  var storeID: StoreID
  var segments: [IndexedSegment]
  var endOffset: UInt64
  var fileByteCount = 0
  var newStreamCount: UInt64 = 0
  var sections = [IndexSectionPlace](repeating: IndexSectionPlace(), count: IndexSection.allCases.count)

  var baseOffset: UInt64 { segments[0].baseOffset }
  /// Bits of an address that hold the position.
  var addressShift: UInt32

  /// - Parameter segments: at least one, in order.
  init(storeID: StoreID, segments: [IndexedSegment], endOffset: UInt64) {
    self.storeID = storeID
    self.segments = segments
    self.endOffset = endOffset
    addressShift = IndexLayout.addressShift(endPosition: segments.map(\.endPosition).max() ?? 0)
  }

  var place: IndexChecksumSeed { IndexChecksumSeed(storeID: storeID, baseOffset: baseOffset, endOffset: endOffset) }

  /// Reads and checks the header against itself and the file's length.
  init(_ bytes: UnsafeRawBufferPointer) throws(Fault) {
    guard bytes.count >= IndexLayout.headerByteCount + IndexLayout.segmentByteCount + 4 else {
      throw Fault(position: bytes.count, reason: "the index ends before its header does")
    }
    guard IndexLayout.magic.withUTF8Buffer({ $0.elementsEqual(bytes.prefix($0.count)) }) else {
      throw Fault(position: 0, reason: "the index does not begin with \(IndexLayout.magic)")
    }
    guard bytes.integer(at: 8, as: UInt32.self) == formatVersion else {
      throw Fault(position: 8, reason: "index version \(bytes.integer(at: 8, as: UInt32.self)) is not \(formatVersion)")
    }
    let segmentCount = Int(bytes.integer(at: 12, as: UInt32.self))
    guard (1...IndexLayout.segmentsPerFile).contains(segmentCount),
      IndexLayout.blocksPosition(segmentCount: segmentCount) <= bytes.count
    else { throw Fault(position: 12, reason: "an index of \(segmentCount) segments is not possible here") }
    let checked = IndexLayout.headerByteCount + segmentCount * IndexLayout.segmentByteCount
    guard bytes.integer(at: checked, as: UInt32.self) == checksum(bytes.part(0, checked)) else {
      throw Fault(position: checked, reason: "the checksum of the index's header does not match")
    }
    storeID = StoreID(first: bytes.integer(at: 16), second: bytes.integer(at: 24))
    endOffset = bytes.integer(at: 40)
    fileByteCount = Int(clamping: bytes.integer(at: 48, as: UInt64.self))
    newStreamCount = bytes.integer(at: 56)
    addressShift = bytes.integer(at: 64)
    segments = (0..<segmentCount).map { number in
      let at = IndexLayout.headerByteCount + number * IndexLayout.segmentByteCount
      return IndexedSegment(
        baseOffset: bytes.integer(at: at), endPosition: bytes.integer(at: at + 8), chain: bytes.integer(at: at + 12))
    }
    guard fileByteCount == bytes.count else {
      throw Fault(position: 48, reason: "the index says it has \(fileByteCount) bytes, it has \(bytes.count)")
    }
    guard bytes.integer(at: 32, as: UInt64.self) == baseOffset,
      zip(segments, segments.dropFirst()).allSatisfy({ $0.baseOffset < $1.baseOffset }),
      segments[segments.count - 1].baseOffset < endOffset,
      addressShift == IndexLayout.addressShift(endPosition: segments.map(\.endPosition).max() ?? 0)
    else { throw Fault(position: 32, reason: "the index's segments are not in order") }
    for section in IndexSection.allCases {
      let at = IndexLayout.sectionsPosition + section.rawValue * IndexLayout.sectionByteCount
      let place = IndexSectionPlace(
        blocksPosition: Int(clamping: bytes.integer(at: at, as: UInt64.self)),
        tablePosition: Int(clamping: bytes.integer(at: at + 8, as: UInt64.self)),
        filterPosition: Int(clamping: bytes.integer(at: at + 16, as: UInt64.self)),
        blockCount: Int(bytes.integer(at: at + 24, as: UInt32.self)),
        lineCount: Int(bytes.integer(at: at + 28, as: UInt32.self)))
      guard place.blocksPosition <= bytes.count, place.tablePosition <= bytes.count,
        place.filterPosition <= bytes.count, place.filterPosition % IndexFilter.lineByteCount == 0,
        place.blockCount <= (bytes.count - place.tablePosition) / IndexLayout.tableEntryByteCount,
        place.lineCount <= (bytes.count - place.filterPosition) / IndexFilter.lineByteCount,
        section == .frames || (place.blockCount == 0) == (place.lineCount == 0)
      else { throw Fault(position: at, reason: "the index's section of \(section.name) can't be there") }
      sections[section.rawValue] = place
    }
  }

  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(IndexLayout.blocksPosition(segmentCount: segments.count))
    IndexLayout.magic.withUTF8Buffer { bytes.append(contentsOf: $0) }
    bytes.append(integer: formatVersion)
    bytes.append(integer: UInt32(segments.count))
    bytes.append(integer: storeID.first)
    bytes.append(integer: storeID.second)
    bytes.append(integer: baseOffset)
    bytes.append(integer: endOffset)
    bytes.append(integer: UInt64(fileByteCount))
    bytes.append(integer: newStreamCount)
    bytes.append(integer: addressShift)
    bytes.append(integer: UInt32(0))
    for section in sections {
      bytes.append(integer: UInt64(section.blocksPosition))
      bytes.append(integer: UInt64(section.tablePosition))
      bytes.append(integer: UInt64(section.filterPosition))
      bytes.append(integer: UInt32(section.blockCount))
      bytes.append(integer: UInt32(section.lineCount))
    }
    for segment in segments {
      bytes.append(integer: segment.baseOffset)
      bytes.append(integer: segment.endPosition)
      bytes.append(integer: segment.chain)
    }
    bytes.append(integer: bytes.withUnsafeBytes(checksum))
    while bytes.count % 8 != 0 { bytes.append(0) }
    return bytes
  }
}

/// What every check in one index file begins with, so that a block of another store, file or position never passes.
struct IndexChecksumSeed: Sendable {
  private let register: UInt32

  init(storeID: StoreID, baseOffset: UInt64, endOffset: UInt64) {
    var prefix: [UInt8] = []
    prefix.append(integer: storeID.first)
    prefix.append(integer: storeID.second)
    prefix.append(integer: baseOffset)
    prefix.append(integer: endOffset)
    register = cchecksum_crc32c(~0, prefix, prefix.count)
  }

  @inline(__always)
  func checksum(of bytes: UnsafeRawBufferPointer, kind: UInt8, at position: Int) -> UInt32 {
    ~cchecksum_crc32c_placed(register, UInt64(position) | UInt64(kind) << 56, bytes.baseAddress, bytes.count)
  }
}

/// The keys that sections are sorted by: the upper 48 bits of a hash. Different streams may have the same.
enum IndexKey {
  static let greatest: UInt64 = 1 << 48 - 1

  @inline(__always)
  static func stream(hash: UInt64) -> UInt64 { hash >> 16 }

  @inline(__always)
  static func eventID(_ id: EventID) -> UInt64 { hash(id) >> 16 }

  /// An id's hash, of which the key is the upper part.
  @inline(__always)
  static func hash(_ id: EventID) -> UInt64 {
    // Mixed, since ids may be numbers in a row, and have fixed bits as UUIDs do.
    mixed(id.low ^ id.high &* 0xC2B2_AE3D_27D4_EB4F)
  }
}

/// A Bloom filter in blocks of one cache line, each with its own checksum (F. Putze, P. Sanders, J. Singler, 2007), so that
/// a probe touches one line and checks what it touched. 13 bits a key and six probes: less than one absent key in a hundred
/// passes. Lines ascend with the keys, so that a filter is written in one pass over sorted keys, and a line can say where
/// its keys begin among the blocks, which spares the search in the table most of its misses.
enum IndexFilter {
  static let lineByteCount = 64
  static let bitsByteCount = 52
  static let blockNumberPosition = 52
  /// Of the block's position in the file, in units of ``positionUnit``.
  static let blockPositionPosition = 56
  static let positionUnit = 16
  /// What the checksum, which comes last, covers.
  static let checkedByteCount = 60
  static let keysPerLine = 32
  static let probes = 6

  static func lineCount(keyCount: Int) -> Int {
    (keyCount + keysPerLine - 1) / keysPerLine
  }

  @inline(__always)
  static func line(_ key: UInt64, lineCount: Int) -> Int {
    Int(truncatingIfNeeded: ((key >> 16) &* UInt64(truncatingIfNeeded: lineCount)) >> 32)
  }

  /// Bit number `probe` of a key in its line, 0..<416.
  @inline(__always)
  static func bit(_ key: UInt64, _ probe: Int) -> Int {
    let mixed = key &* 0x9E37_79B9_7F4A_7C15
    return Int(truncatingIfNeeded: ((mixed >> UInt64(truncatingIfNeeded: 55 - 9 * probe) & 511) &* 13) >> 4)
  }

  @inline(__always)
  static func insert(_ key: UInt64, into line: UnsafeMutablePointer<UInt8>) {
    for probe in 0..<probes {
      let bit = bit(key, probe)
      line[bit >> 3] |= 1 << UInt8(truncatingIfNeeded: bit & 7)
    }
  }

  /// - Parameter line: has all of its ``lineByteCount`` bytes.
  @inline(__always)
  static func mayContain(_ key: UInt64, in line: UnsafePointer<UInt8>) -> Bool {
    var all: UInt8 = 1
    for probe in 0..<probes {
      let bit = bit(key, probe)
      all &= line[bit >> 3] >> UInt8(truncatingIfNeeded: bit & 7)
    }
    return all & 1 != 0
  }
}

/// Reads varints one after the other and never past the end.
struct VarintReader {
  private var next: UnsafePointer<UInt8>?
  private let end: UnsafePointer<UInt8>?

  init(_ bytes: UnsafeRawBufferPointer) {
    // Proof: `bytes` outlives the reader, which is only ever made for the length of a closure over them.
    let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    next = start
    end = start.map { $0 + bytes.count }
  }

  var isAtEnd: Bool { next == end }

  /// nil at the end, or where a number does not end in 64 bits.
  @inline(__always)
  mutating func read() -> UInt64? {
    guard var at = next, let end, at < end else { return nil }
    var byte = at.pointee
    at += 1
    var value = UInt64(byte & 0x7F)
    var shift: UInt64 = 7
    while byte >= 0x80 {
      guard at < end, shift < 64 else { return nil }
      byte = at.pointee
      at += 1
      value |= UInt64(byte & 0x7F) &<< shift
      shift &+= 7
    }
    next = at
    return value
  }

  /// Steps over so many varints; false if there are not as many.
  mutating func skip(_ count: Int) -> Bool {
    guard count > 0 else { return true }
    guard var at = next, let end else { return false }
    var left = count
    // A varint ends with its first byte below 128: eight bytes' ends are counted at once.
    while left >= 8, end - at >= 8 {
      let word = UnsafeRawPointer(at).loadUnaligned(as: UInt64.self)
      left -= (~word & 0x8080_8080_8080_8080).nonzeroBitCount
      at += 8
    }
    while left > 0 {
      guard at < end else { return false }
      if at.pointee < 0x80 { left -= 1 }
      at += 1
    }
    next = at
    return true
  }
}
