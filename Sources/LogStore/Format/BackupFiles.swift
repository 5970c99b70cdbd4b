// The files of a backup (docs/FORMAT.md, *Backups*): bytes ↔ values, no I/O, no state.

/// A segment in a backup: the bytes of its file from the start to the end of one of its frames. The backup leaves out the
/// zeros behind them.
struct BackupPart: Equatable, Sendable {
  static let byteCount = 32

  var baseOffset: UInt64
  /// The offset after its last event.
  var endOffset: UInt64
  /// The number of bytes in the backup.
  var contentByteCount: UInt64
  /// The checksum of those bytes.
  var checksum: UInt32
  /// The header checksum of the last frame in them.
  var chain: UInt32

  init(baseOffset: UInt64, endOffset: UInt64, contentByteCount: UInt64, checksum: UInt32, chain: UInt32) {
    self.baseOffset = baseOffset
    self.endOffset = endOffset
    self.contentByteCount = contentByteCount
    self.checksum = checksum
    self.chain = chain
  }

  /// - Parameter position: the position of the part. Its bytes exist and were checked.
  fileprivate init(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(HeaderFault) {
    baseOffset = bytes.integer(at: position)
    endOffset = bytes.integer(at: position + 8)
    contentByteCount = bytes.integer(at: position + 16)
    checksum = bytes.integer(at: position + 24)
    chain = bytes.integer(at: position + 28)
    guard baseOffset <= endOffset, contentByteCount > UInt64(SegmentHeader.byteCount) || isHeaderOnly,
      contentByteCount <= UInt64(UInt32.max)
    else { throw .fault(Fault(position: position, reason: "a segment that is not possible")) }
  }

  /// Whether the part lacks the segment's first frame. Early programs wrote such a part, always as the last one, for a segment
  /// without proven events that they had no right to write to. It is read, and never written: ``BackupManifest/checkedBytes(for:)``.
  var isHeaderOnly: Bool { contentByteCount == UInt64(SegmentHeader.byteCount) && baseOffset == endOffset }

  /// Whether a gap is between another part and this one.
  func isBehindGap(after part: BackupPart?) -> Bool { part.map { baseOffset > $0.endOffset } ?? false }

  /// Whether the part may follow another part, nil for none.
  func continues(_ part: BackupPart?, orGap: Bool) -> Bool {
    guard let part else { return baseOffset == 0 }
    if part.isHeaderOnly { return false }
    if isBehindGap(after: part) { return orGap }
    return baseOffset == part.endOffset && part.baseOffset < part.endOffset
  }

  fileprivate func encode(to bytes: UnsafeMutableRawBufferPointer, at position: Int) {
    bytes.set(baseOffset, at: position)
    bytes.set(endOffset, at: position + 8)
    bytes.set(contentByteCount, at: position + 16)
    bytes.set(checksum, at: position + 24)
    bytes.set(chain, at: position + 28)
  }
}

/// The content of a backup: the file `manifest` of a directory, and the end of a stream.
struct BackupManifest: Equatable, Sendable {
  static let magic: StaticString = "LSBACKUP"
  /// The length before the list of segments.
  static let headByteCount = 64
  /// Enough for two million segments: no manifest is longer.
  static let byteCountMax = 64 << 20

  var store: StoreHeader
  /// The offset after the last event.
  var endOffset: UInt64
  var createdMicroseconds: UInt64
  /// In order, the first with base offset 0; never empty. Where a part does not begin with the end of the one before, the
  /// log has a gap.
  var parts: [BackupPart]

  init(store: StoreHeader, endOffset: UInt64, createdMicroseconds: UInt64, parts: [BackupPart]) {
    self.store = store
    self.endOffset = endOffset
    self.createdMicroseconds = createdMicroseconds
    self.parts = parts
  }

  /// The length that a manifest with this head must have; nil if there is none.
  static func byteCount(of head: UnsafeRawBufferPointer) -> Int? {
    let byteCount = headByteCount + Int(head.integer(at: 12, as: UInt32.self)) * BackupPart.byteCount + 4
    return byteCount <= byteCountMax ? byteCount : nil
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    let version = try checkEnvelope(
      bytes, magic: Self.magic, byteCount: max(bytes.count, Self.headByteCount + 4), upTo: gapFormatVersion)
    guard Self.byteCount(of: bytes) == bytes.count else {
      throw .fault(Fault(position: 12, reason: "another number of segments than its length allows"))
    }
    try checkZeros(bytes, 56..<64)
    store = StoreHeader(
      storeID: StoreID(bytes, at: EnvelopeField.storeID),
      createdMicroseconds: bytes.integer(at: 32))
    endOffset = bytes.integer(at: 40)
    createdMicroseconds = bytes.integer(at: 48)
    parts = []
    for position in stride(from: Self.headByteCount, to: bytes.count - 4, by: BackupPart.byteCount) {
      let part = try BackupPart(bytes, at: position)
      guard part.continues(parts.last, orGap: version == gapFormatVersion) else {
        throw .fault(Fault(position: position, reason: "a segment that does not continue the one before it"))
      }
      parts.append(part)
    }
    guard parts.last?.endOffset == endOffset else {
      throw .fault(Fault(position: 40, reason: "the segments do not end with offset \(endOffset)"))
    }
  }

  func encoded() -> [UInt8] {
    let hasGap = zip(parts, parts.dropFirst()).contains { $1.isBehindGap(after: $0) }
    return envelope(
      Self.magic, byteCount: Self.headByteCount + parts.count * BackupPart.byteCount + 4,
      version: hasGap ? gapFormatVersion : formatVersion
    ) { bytes in
      bytes.set(UInt32(parts.count), at: 12)
      store.storeID.encode(into: bytes, at: EnvelopeField.storeID)
      bytes.set(store.createdMicroseconds, at: 32)
      bytes.set(endOffset, at: 40)
      bytes.set(createdMicroseconds, at: 48)
      for (number, part) in parts.enumerated() {
        part.encode(to: bytes, at: Self.headByteCount + number * BackupPart.byteCount)
      }
    }
  }
}

/// The header of a backup in one stream.
struct BackupStreamHeader: Equatable, Sendable {
  static let magic: StaticString = "LSBSTREM"
  static let byteCount = 64

  var store: StoreHeader

  init(store: StoreHeader) {
    self.store = store
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    try checkEnvelope(bytes, magic: Self.magic, byteCount: Self.byteCount)
    try checkZeros(bytes, 12..<16, 40..<60)
    store = StoreHeader(
      storeID: StoreID(bytes, at: EnvelopeField.storeID),
      createdMicroseconds: bytes.integer(at: 32))
  }

  func encoded() -> [UInt8] {
    envelope(Self.magic, byteCount: Self.byteCount) { bytes in
      store.storeID.encode(into: bytes, at: EnvelopeField.storeID)
      bytes.set(store.createdMicroseconds, at: 32)
    }
  }
}

/// The header before the bytes of a segment in a stream.
struct BackupPartHeader: Equatable, Sendable {
  static let magic: StaticString = "LSBSEGMT"
  /// As long as a manifest's head, since either may follow.
  static let byteCount = BackupManifest.headByteCount

  var part: BackupPart
  /// Whether the part begins behind the end of the one before.
  var isBehindGap: Bool

  init(part: BackupPart, isBehindGap: Bool) {
    self.part = part
    self.isBehindGap = isBehindGap
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    let version = try checkEnvelope(bytes, magic: Self.magic, byteCount: Self.byteCount, upTo: gapFormatVersion)
    try checkZeros(bytes, 12..<16, 48..<60)
    part = try BackupPart(bytes, at: 16)
    isBehindGap = version == gapFormatVersion
  }

  func encoded() -> [UInt8] {
    envelope(Self.magic, byteCount: Self.byteCount, version: isBehindGap ? gapFormatVersion : formatVersion) {
      part.encode(to: $0, at: 16)
    }
  }
}

/// The names in a backup's directory.
enum BackupFileName {
  static let manifest = "manifest"
  static let lock = "lock"
  static let partSuffix = ".segment"

  /// Named by content, so that a segment that has grown never replaces a file that an older manifest lists.
  static func part(_ part: BackupPart) -> String {
    let base = FileName.segment(part.baseOffset).dropLast(".log".utf8.count)
    let digits = String(part.checksum, radix: 16)
    return base + "-" + String(repeating: "0", count: 8 - digits.utf8.count) + digits + partSuffix
  }

  /// Whether a backup creates a file of this name.
  static func isKnown(_ name: String) -> Bool {
    name == manifest || name == lock || isRemovable(name)
  }

  /// Whether a file of this name means nothing unless a manifest lists it.
  static func isRemovable(_ name: String) -> Bool {
    let whole = name.hasSuffix(FileName.aside) ? name.dropLast(FileName.aside.utf8.count) : name[...]
    if whole == manifest { return whole != name }
    // A base offset, a hyphen, a checksum.
    return whole.hasSuffix(partSuffix) && whole.utf8.count == 20 + 1 + 8 + partSuffix.utf8.count
      && FileName.baseOffset(whole.prefix(20) + ".log", suffix: ".log") != nil
  }
}
