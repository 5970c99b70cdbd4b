/// What the frame headers of one segment file say of it. Each header has a checksum that covers its place, so what they say
/// was written by a writer of this store id; whether by this directory's is decided by ``SalvageHistory``.
struct SegmentEvidence {
  var part: SalvageSource.Part
  /// The file has the name of the segment that it is.
  var isNamedSo: Bool
  /// Events of the frames whose headers are sound.
  private(set) var events: UInt64 = 0
  /// The offset behind the last of them.
  private(set) var endOffset: UInt64
  /// Behind the last frame.
  private(set) var endPosition = SegmentHeader.byteCount
  /// Where the last frame begins, and its header checksum; nil if there is none.
  private(set) var last: (position: Int, checksum: UInt32)?
  /// The header checksum of the last frame; nil where something is damaged, so that another frame may have been the last.
  private(set) var endChain: UInt32?
  let headerChecksum: UInt32?

  var baseOffset: UInt64 { part.baseOffset }

  /// Reads the file once. Frames are not checked but for their headers.
  init(_ part: SalvageSource.Part, isNamedSo: Bool, in segment: Segment) {
    self.part = part
    self.isNamedSo = isNamedSo
    endOffset = part.baseOffset
    headerChecksum = part.header == nil ? nil : segment.headerChecksum
    let bytes = segment.bytes
    var position = SegmentHeader.byteCount
    var chain = part.header?.chain
    var isWhole = true
    while position <= bytes.count - FrameHeader.byteCount {
      if let header = FrameHeader(in: bytes, at: position, place: segment.place), header.firstOffset >= endOffset {
        if let chain, header.chain != chain { isWhole = false }
        (chain, last) = (header.checksum, (position, header.checksum))
        events += UInt64(header.eventCount)
        endOffset = header.endOffset
        position += header.byteCount
        endPosition = position
        continue
      }
      guard let other = bytes.part(position, bytes.count - position).firstNonZero else { break }
      isWhole = false
      position = max(position + 8, (position + other) / 8 * 8)
    }
    if isWhole { endChain = last?.checksum }
  }

  /// Whether the log was closed at the end of this file.
  func isEnd(_ clean: CleanEnd) -> Bool {
    clean.baseOffset == baseOffset && clean.endOffset == endOffset && clean.chain == endChain
      && clean.endPosition == UInt64(endPosition)
  }

  /// Whether the last writer told others that it was writing this file.
  func isOpen(_ notice: TailNotice) -> Bool {
    notice.end.baseOffset == baseOffset && notice.segment == headerChecksum && notice.end.offset <= endOffset
  }

  /// Whether the last writer told others that the log was durable to the end of this file, and no further.
  func isEnd(_ notice: TailNotice) -> Bool { isOpen(notice) && notice.end.offset == endOffset }
}
