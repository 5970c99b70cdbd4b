/// What the frame headers of one segment file say of it. Each header has a checksum that covers its place, so what they say
/// was written by a writer of this store id; whether by this directory's is decided by ``SalvageHistory``.
struct SegmentEvidence {
  /// What a file has where `clean` or `tail` say that the log ends.
  enum Mark: Equatable {
    /// No sound frame tells.
    case unknown
    case inFrame
    case frameEnd(checksum: UInt32, offset: UInt64)
  }

  /// What a file says of a record of the log's end.
  enum Testimony {
    case names, denies, silent
  }

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
  /// The header checksum of the last frame; nil where something is damaged, or can't be read, so that another frame may have
  /// been the last.
  private(set) var endChain: UInt32?
  /// The same though something behind the last frame can't be read.
  private var lastChain: UInt32?
  /// Of the first and of the last frame; nil without one.
  private(set) var timestamps: ClosedRange<UInt64>?
  private var cleanMark = Mark.unknown
  private var noticeMark = Mark.unknown
  let headerChecksum: UInt32?

  var baseOffset: UInt64 { part.baseOffset }

  /// Reads the file once. Frames are not checked but for their headers.
  ///
  /// - Parameter unreadableEnd: bytes from here on can be read; nil if all can.
  init(
    _ part: SalvageSource.Part, isNamedSo: Bool, in segment: Segment, unreadableEnd: Int?, clean: CleanEnd?,
    notice: TailNotice?
  ) {
    self.part = part
    self.isNamedSo = isNamedSo
    endOffset = part.baseOffset
    headerChecksum = part.header == nil ? nil : segment.headerChecksum
    let cleanPosition = clean.flatMap { $0.baseOffset == part.baseOffset ? Int(clamping: $0.endPosition) : nil }
    let noticePosition = notice.flatMap { $0.end.baseOffset == part.baseOffset ? $0.end.position : nil }
    let bytes = segment.bytes
    var position = SegmentHeader.byteCount
    var chain = part.header?.chain
    var isWhole = true
    while position <= bytes.count - FrameHeader.byteCount {
      if let header = FrameHeader(in: bytes, at: position, checksumSeed: segment.checksumSeed),
        header.firstOffset >= endOffset
      {
        if let chain, header.chain != chain { isWhole = false }
        (chain, last) = (header.checksum, (position, header.checksum))
        events += UInt64(header.eventCount)
        endOffset = header.endOffset
        let first = timestamps?.lowerBound ?? header.timestamp
        timestamps = first...max(first, header.timestamp)
        if let cleanPosition { cleanMark = mark(cleanPosition, header, at: position) ?? cleanMark }
        if let noticePosition { noticeMark = mark(noticePosition, header, at: position) ?? noticeMark }
        position += header.byteCount
        endPosition = position
        continue
      }
      guard let other = bytes.part(position, bytes.count - position).firstNonZero else { break }
      isWhole = false
      position = max(position + 8, (position + other) / 8 * 8)
    }
    if isWhole { lastChain = last?.checksum }
    if unreadableEnd ?? 0 <= endPosition { endChain = lastChain }
  }

  private func mark(_ wanted: Int, _ header: FrameHeader, at position: Int) -> Mark? {
    let end = position + header.byteCount
    if wanted == end { return .frameEnd(checksum: header.checksum, offset: header.endOffset) }
    return position < wanted && wanted < end ? .inFrame : nil
  }

  /// Whether the log was closed at the end of this file.
  func isEnd(_ clean: CleanEnd) -> Bool {
    clean.baseOffset == baseOffset && clean.endOffset == endOffset && clean.chain == lastChain
      && clean.endPosition == UInt64(endPosition)
  }

  /// Whether the last writer told others that it was writing this file.
  func isOpen(_ notice: TailNotice) -> Bool {
    testimony(on: notice) == .names && notice.end.offset <= endOffset
  }

  /// Whether the last writer told others that the log was durable to the end of this file, and no further.
  func isEnd(_ notice: TailNotice) -> Bool { isOpen(notice) && notice.end.offset == endOffset }

  /// Whether nothing of this file is missing, and the last writer told others that it ended so.
  func isWholeEnd(_ notice: TailNotice) -> Bool {
    endChain != nil && isEnd(notice) && notice.end.position == endPosition
  }

  /// Whether the log was closed at the end of this file, or was closed at a place that this file has no such frame at.
  func testimony(on clean: CleanEnd) -> Testimony {
    if isEnd(clean) { return .names }
    if baseOffset < clean.baseOffset { return endOffset > clean.baseOffset ? .denies : .silent }
    guard baseOffset == clean.baseOffset else { return .silent }
    return switch cleanMark {
    // Lost with the frames behind it, perhaps.
    case .unknown: .silent
    case .inFrame: .denies
    // The log went on there since: an older record.
    case .frameEnd(let checksum, _): checksum == clean.chain ? .silent : .denies
    }
  }

  /// Whether a writer told others that it was writing this file, or another one in its place.
  func testimony(on notice: TailNotice) -> Testimony {
    if baseOffset < notice.end.baseOffset { return endOffset > notice.end.baseOffset ? .denies : .silent }
    guard baseOffset == notice.end.baseOffset, let headerChecksum else { return .silent }
    guard headerChecksum == notice.segment else {
      // A segment without events gives way to another one of its name.
      return notice.end.offset == baseOffset ? .silent : .denies
    }
    return switch noticeMark {
    case .unknown: .names
    case .inFrame: .denies
    case .frameEnd(_, let offset): offset == notice.end.offset ? .names : .denies
    }
  }
}
