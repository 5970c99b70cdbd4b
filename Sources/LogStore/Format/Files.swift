// The small fixed files and headers of docs/FORMAT.md: bytes ↔ values, no I/O.

/// The version of the format that this program writes. It reads no other, but for what tells of a gap.
let formatVersion: UInt32 = 1
/// The version of what a program that knows nothing of gaps would misread: the header of a segment behind a gap, and the
/// manifest of a backup with one.
let gapFormatVersion: UInt32 = 2

enum HeaderFault: Error, Equatable {
  case fault(Fault)
  case newerVersion(UInt32, supported: UInt32)
}

/// Checks what all files begin with, and the checksum they end with. Gives back the version.
@discardableResult
func checkEnvelope(
  _ bytes: UnsafeRawBufferPointer, magic: StaticString, byteCount: Int, upTo supported: UInt32 = formatVersion
) throws(HeaderFault) -> UInt32 {
  guard bytes.count >= byteCount else {
    throw .fault(Fault(position: bytes.count, reason: "the file ends before its \(byteCount) bytes of header"))
  }
  guard magic.withUTF8Buffer({ $0.elementsEqual(bytes.prefix($0.count)) }) else {
    throw .fault(Fault(position: 0, reason: "it does not begin with \(magic)"))
  }
  let version: UInt32 = bytes.integer(at: 8)
  // First, as every version keeps the checksum in its place: a flipped bit of the version is damage, and not a newer file.
  guard bytes.integer(at: byteCount - 4, as: UInt32.self) == checksum(bytes.part(0, byteCount - 4)) else {
    throw .fault(Fault(position: byteCount - 4, reason: "the header's checksum does not match its bytes"))
  }
  if version > supported { throw .newerVersion(version, supported: supported) }
  guard version >= formatVersion else {
    throw .fault(Fault(position: 8, reason: "format version \(version) was never used"))
  }
  return version
}

/// Refuses bytes that are said to be zero and are not, whatever the checksum says.
func checkZeros(_ bytes: UnsafeRawBufferPointer, _ ranges: Range<Int>...) throws(HeaderFault) {
  for range in ranges {
    guard let other = bytes.part(range.lowerBound, range.count).firstNonZero else { continue }
    throw .fault(Fault(position: range.lowerBound + other, reason: "a byte that is to be zero is not"))
  }
}

func envelope(
  _ magic: StaticString, byteCount: Int, version: UInt32 = formatVersion,
  _ fill: (UnsafeMutableRawBufferPointer) -> Void
) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: byteCount)
  bytes.withUnsafeMutableBytes { buffer in
    magic.withUTF8Buffer { buffer.copyBytes(from: $0) }
    buffer.set(version, at: 8)
    fill(buffer)
    buffer.set(checksum(UnsafeRawBufferPointer(buffer).part(0, byteCount - 4)), at: byteCount - 4)
  }
  return bytes
}

/// The file `store`.
struct StoreHeader: Equatable, Sendable {
  static let byteCount = 64

  var storeID: StoreID
  var createdMicroseconds: UInt64

  init(storeID: StoreID, createdMicroseconds: UInt64) {
    self.storeID = storeID
    self.createdMicroseconds = createdMicroseconds
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    try checkEnvelope(bytes, magic: "LOGSTORE", byteCount: Self.byteCount)
    guard bytes.count == Self.byteCount else {
      throw .fault(Fault(position: Self.byteCount, reason: "the file should end here"))
    }
    try checkZeros(bytes, 12..<16, 40..<60)
    storeID = StoreID(first: bytes.integer(at: 16), second: bytes.integer(at: 24))
    createdMicroseconds = bytes.integer(at: 32)
  }

  func encoded() -> [UInt8] {
    envelope("LOGSTORE", byteCount: Self.byteCount) { bytes in
      bytes.set(storeID.first, at: 16)
      bytes.set(storeID.second, at: 24)
      bytes.set(createdMicroseconds, at: 32)
    }
  }
}

/// The first page of a segment.
struct SegmentHeader: Equatable, Sendable {
  static let byteCount = 4096
  /// The previous base offset of a store's first segment.
  static let noPrevious = UInt64.max
  /// So that nobody who counts on from it can overflow: an offset is less than this and what a segment has events.
  static let baseOffsetLimit: UInt64 = 1 << 63

  var storeID: StoreID
  var baseOffset: UInt64
  var previousBaseOffset: UInt64
  var fileByteCount: UInt64
  var createdMicroseconds: UInt64
  /// The header checksum of the last frame of the segment before.
  var chain: UInt32
  /// Where the segment before ends, if that is not the base offset: the offsets between are a gap.
  var gapStart: UInt64?

  /// The offset that the segment before ends with.
  var previousEndOffset: UInt64 { gapStart ?? baseOffset }
  /// The offsets between the segment before and this one; their events could not be saved from damage.
  var gap: Range<UInt64>? { gapStart.map { $0..<baseOffset } }

  init(
    storeID: StoreID, baseOffset: UInt64, previousBaseOffset: UInt64, fileByteCount: UInt64,
    createdMicroseconds: UInt64, chain: UInt32, gapStart: UInt64? = nil
  ) {
    self.storeID = storeID
    self.baseOffset = baseOffset
    self.previousBaseOffset = previousBaseOffset
    self.fileByteCount = fileByteCount
    self.createdMicroseconds = createdMicroseconds
    self.chain = chain
    self.gapStart = gapStart
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    let version = try checkEnvelope(
      bytes, magic: "LSSEGMNT", byteCount: Self.byteCount, upTo: gapFormatVersion)
    guard bytes.integer(at: 12, as: UInt32.self) == UInt32(Self.byteCount) else {
      throw .fault(Fault(position: 12, reason: "the header length is not \(Self.byteCount)"))
    }
    // Behind a gap its start stands at 72.
    try checkZeros(bytes, 68..<72, (version == gapFormatVersion ? 80 : 72)..<Self.byteCount - 4)
    storeID = StoreID(first: bytes.integer(at: 16), second: bytes.integer(at: 24))
    baseOffset = bytes.integer(at: 32)
    previousBaseOffset = bytes.integer(at: 40)
    fileByteCount = bytes.integer(at: 48)
    createdMicroseconds = bytes.integer(at: 56)
    chain = bytes.integer(at: 64)
    guard baseOffset < Self.baseOffsetLimit else {
      throw .fault(Fault(position: 32, reason: "a segment that begins with offset \(baseOffset) is not possible"))
    }
    guard fileByteCount % 4096 == 0, fileByteCount > 4096, fileByteCount <= UInt64(UInt32.max) else {
      throw .fault(Fault(position: 48, reason: "a segment of \(fileByteCount) bytes is not possible"))
    }
    guard version == gapFormatVersion else { return }
    let start: UInt64 = bytes.integer(at: 72)
    guard start < baseOffset, previousBaseOffset <= start else {
      throw .fault(Fault(position: 72, reason: "a gap from offset \(start) to \(baseOffset) is not possible"))
    }
    gapStart = start
  }

  func encoded() -> [UInt8] {
    envelope(
      "LSSEGMNT", byteCount: Self.byteCount, version: gapStart == nil ? formatVersion : gapFormatVersion
    ) { bytes in
      bytes.set(UInt32(Self.byteCount), at: 12)
      bytes.set(storeID.first, at: 16)
      bytes.set(storeID.second, at: 24)
      bytes.set(baseOffset, at: 32)
      bytes.set(previousBaseOffset, at: 40)
      bytes.set(fileByteCount, at: 48)
      bytes.set(createdMicroseconds, at: 56)
      bytes.set(chain, at: 64)
      if let gapStart { bytes.set(gapStart, at: 72) }
    }
  }
}

/// The file `clean`: where the log ends after a clean close.
struct CleanEnd: Equatable, Sendable {
  static let byteCount = 64

  var storeID: StoreID
  var endOffset: UInt64
  var baseOffset: UInt64
  var endPosition: UInt64
  var chain: UInt32

  init(storeID: StoreID, endOffset: UInt64, baseOffset: UInt64, endPosition: UInt64, chain: UInt32) {
    self.storeID = storeID
    self.endOffset = endOffset
    self.baseOffset = baseOffset
    self.endPosition = endPosition
    self.chain = chain
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    try checkEnvelope(bytes, magic: "LSCLEAN1", byteCount: Self.byteCount)
    guard bytes.count == Self.byteCount else {
      throw .fault(Fault(position: Self.byteCount, reason: "the file should end here"))
    }
    try checkZeros(bytes, 56..<60)
    chain = bytes.integer(at: 12)
    storeID = StoreID(first: bytes.integer(at: 16), second: bytes.integer(at: 24))
    endOffset = bytes.integer(at: 32)
    baseOffset = bytes.integer(at: 40)
    endPosition = bytes.integer(at: 48)
  }

  func encoded() -> [UInt8] {
    envelope("LSCLEAN1", byteCount: Self.byteCount) { bytes in
      bytes.set(chain, at: 12)
      bytes.set(storeID.first, at: 16)
      bytes.set(storeID.second, at: 24)
      bytes.set(endOffset, at: 32)
      bytes.set(baseOffset, at: 40)
      bytes.set(endPosition, at: 48)
    }
  }
}

/// How far the log is durable.
struct DurableEnd: Equatable, Sendable {
  /// Every event with a lower offset is on disk.
  var offset: UInt64
  /// The segment that this end is in, and where in it.
  var baseOffset: UInt64
  var position: Int
}

/// The file `tail`: what a living writer tells other processes.
struct TailNotice: Equatable, Sendable {
  static let byteCount = 40

  enum State: UInt32, Sendable {
    case opening = 1
    case open = 2
    case closed = 3
  }

  var end: DurableEnd
  var writer: UInt32
  /// The header checksum of the segment's file: one without events may be replaced by another of the same name.
  var segment: UInt32
  var state: State

  init(end: DurableEnd, writer: UInt32, segment: UInt32, state: State) {
    self.end = end
    self.writer = writer
    self.segment = segment
    self.state = state
  }

  /// nil when the bytes are not a whole notice: read again.
  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.byteCount,
      bytes.integer(at: 36, as: UInt32.self) == checksum(bytes.part(0, 36)),
      bytes.integer(at: 32, as: UInt32.self) == formatVersion,
      let state = State(rawValue: bytes.integer(at: 28))
    else { return nil }
    end = DurableEnd(
      offset: bytes.integer(at: 0), baseOffset: bytes.integer(at: 16),
      position: Int(bytes.integer(at: 24, as: UInt32.self)))
    writer = bytes.integer(at: 8)
    segment = bytes.integer(at: 12)
    self.state = state
  }

  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.byteCount)
    bytes.withUnsafeMutableBytes { buffer in
      buffer.set(end.offset, at: 0)
      buffer.set(writer, at: 8)
      buffer.set(segment, at: 12)
      buffer.set(end.baseOffset, at: 16)
      buffer.set(UInt32(end.position), at: 24)
      buffer.set(state.rawValue, at: 28)
      buffer.set(formatVersion, at: 32)
      buffer.set(checksum(UnsafeRawBufferPointer(buffer).part(0, 36)), at: 36)
    }
    return bytes
  }
}

/// The names of a store's files.
enum FileName {
  static let store = "store"
  static let clean = "clean"
  static let tail = "tail"
  static let lock = "lock"
  static let aside = ".tmp"
  /// The next segment, as far as it is made.
  static let next = "next" + aside
  /// Locked by one who makes a whole store aside.
  static let restoring = "restore" + aside
  private static let asides: Set<String> = [
    next, restoring, store + aside, clean + aside, tail + aside, lock + aside,
  ]

  /// Whether a name is one under which a store's files are made.
  static func isAside(_ name: String) -> Bool {
    asides.contains(name)
      || name.hasSuffix(indexSuffix + aside) && indexRange(String(name.dropLast(aside.utf8.count))) != nil
  }

  static func segment(_ baseOffset: UInt64) -> String { digits(baseOffset) + ".log" }
  static func index(_ range: Range<UInt64>) -> String {
    digits(range.lowerBound) + "-" + digits(range.upperBound) + indexSuffix
  }
  static let indexSuffix = ".idx"

  /// The base offset in a segment's name; nil for any other name.
  static func baseOffset(_ name: String, suffix: String) -> UInt64? {
    guard name.hasSuffix(suffix), name.utf8.count == 20 + suffix.utf8.count else { return nil }
    return number(name.utf8.prefix(20))
  }

  /// The offsets in an index file's name; nil for any other name.
  static func indexRange(_ name: String) -> Range<UInt64>? {
    guard name.hasSuffix(indexSuffix), name.utf8.count == 41 + indexSuffix.utf8.count,
      name.utf8.dropFirst(20).first == UInt8(ascii: "-"),
      let base = number(name.utf8.prefix(20)), let end = number(name.utf8.dropFirst(21).prefix(20)), base < end
    else { return nil }
    return base..<end
  }

  private static func number(_ digits: Substring.UTF8View) -> UInt64? {
    guard digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
    return UInt64(String(decoding: digits, as: UTF8.self))
  }

  private static func digits(_ value: UInt64) -> String {
    let text = String(value)
    return String(repeating: "0", count: 20 - text.utf8.count) + text
  }
}
