/// What the frame headers of one segment file prove. Each header has a checksum that covers its position, so a writer with
/// this store id wrote it. Whether that was this directory's writer is decided by ``SalvageHistory``.
struct SegmentEvidence {
  /// What a file has at the position where `clean` or `tail` say that the log ends.
  enum Mark: Equatable {
    /// No sound frame covers the position.
    case unknown
    case inFrame
    case frameEnd(checksum: UInt32, offset: UInt64)
  }

  /// What a file says about a mark of the log's end.
  enum Testimony {
    case names, denies, silent
  }

  var part: SalvageSource.Part
  /// The file has the name of the segment that it holds.
  var isNamedSo: Bool
  /// Events in frames with sound headers.
  private(set) var events: UInt64 = 0
  /// The offset behind the last of them.
  private(set) var endOffset: UInt64
  /// The position behind the last frame.
  private(set) var endPosition = SegmentHeader.byteCount
  /// The position of the last frame and its header checksum; nil if there is none.
  private(set) var last: (position: Int, checksum: UInt32)?
  /// The header checksum of the last frame; nil if something is damaged or unreadable, so that another frame may have been
  /// the last.
  private(set) var endChain: UInt32?
  /// The same, even if something behind the last frame is unreadable.
  private var lastChain: UInt32?
  /// The times of the first and of the last frame; nil without a frame.
  private(set) var timestamps: ClosedRange<UInt64>?
  private var cleanMark = Mark.unknown
  private var noticeMark = Mark.unknown
  let headerChecksum: UInt32?
  /// The header checksum of the last frame before this segment, by its first frame, which has it as the segment's header does. nil if
  /// that frame is damaged.
  private(set) var chainBefore: UInt32?
  /// Paths of index files that list other events of this segment than the file has.
  private(set) var contradicting: Set<String> = []

  var baseOffset: UInt64 { part.baseOffset }

  /// Reads the file once. Checks only the headers of frames.
  ///
  /// - Parameter unreadableEnd: the end of the last unreadable range; nil if all bytes can be read.
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
        if position == SegmentHeader.byteCount, header.isSnapshot { chainBefore = header.chain }
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

  /// Notes which index files can't have been built from this file. Reads those that name another last frame.
  mutating func compare(with indexes: [IndexFile], in segment: Segment) {
    for index in indexes {
      guard let number = index.header.segments.firstIndex(where: { $0.baseOffset == baseOffset }),
        index.header.segments[number].chain != endChain, let listed = ListedEvents(index, segment: number),
        listed.contradict(segment)
      else { continue }
      contradicting.insert(index.path)
    }
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

  /// Whether the last writer published that it was writing this file.
  func isOpen(_ notice: TailNotice) -> Bool {
    testimony(on: notice) == .names && notice.end.offset <= endOffset
  }

  /// Whether the last writer published the end of this file as the durable end.
  func isEnd(_ notice: TailNotice) -> Bool { isOpen(notice) && notice.end.offset == endOffset }

  /// Whether nothing of this file is missing, and the last writer published its end.
  func isWholeEnd(_ notice: TailNotice) -> Bool {
    endChain != nil && isEnd(notice) && notice.end.position == endPosition
  }

  /// Whether this file has the end that `clean` tells, and events behind it: then `clean` is older.
  func goesOn(behind clean: CleanEnd) -> Bool {
    baseOffset == clean.baseOffset && endOffset > clean.endOffset
      && cleanMark == .frameEnd(checksum: clean.chain, offset: clean.endOffset)
  }

  /// Whether this file is the one that the last writer published, and has events behind the published end.
  func goesOn(behind notice: TailNotice) -> Bool {
    guard testimony(on: notice) == .names, endOffset > notice.end.offset, case .frameEnd = noticeMark else {
      return false
    }
    return true
  }

  /// Whether the log was closed at the end of this file, or at a position where this file has no such frame.
  func testimony(on clean: CleanEnd) -> Testimony {
    if isEnd(clean) { return .names }
    if baseOffset < clean.baseOffset { return endOffset > clean.baseOffset ? .denies : .silent }
    guard baseOffset == clean.baseOffset else { return .silent }
    return switch cleanMark {
    // The frame may be lost together with those behind it.
    case .unknown: .silent
    case .inFrame: .denies
    // The log continued there since then: an older mark.
    case .frameEnd(let checksum, _): checksum == clean.chain ? .silent : .denies
    }
  }

  /// Whether a writer published that it was writing this file, or another file in its position.
  func testimony(on notice: TailNotice) -> Testimony {
    if baseOffset < notice.end.baseOffset { return endOffset > notice.end.baseOffset ? .denies : .silent }
    guard baseOffset == notice.end.baseOffset, let headerChecksum else { return .silent }
    guard headerChecksum == notice.segment else {
      // A segment without events is replaced by another one of the same name.
      return notice.end.offset == baseOffset ? .silent : .denies
    }
    return switch noticeMark {
    case .unknown: .names
    case .inFrame: .denies
    case .frameEnd(_, let offset): offset == notice.end.offset ? .names : .denies
    }
  }
}
